"""Pure: which IP addresses an outbound request may reach, and the operator's exceptions.

The tables follow the IANA special-purpose address registries (RFC 6890). They stand here in full because the answers
of :mod:`ipaddress` differ between Python versions.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from llmteam.errors import ConfigurationError
from llmteam.net.errors import ALLOW_SETTING

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA = "a cloud metadata address"
UNSPECIFIED = "an unspecified address"
MULTICAST = "a multicast address"
BROADCAST = "a broadcast address"

#: No setting opens these.
NEVER = frozenset({METADATA, UNSPECIFIED, MULTICAST, BROADCAST})

_METADATA_ADDRESSES: frozenset[IPAddress] = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google, OpenStack, Oracle, DigitalOcean and others
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "169.254.42.42",  # Scaleway
        "169.254.0.23",  # Tencent
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure host agent
        "192.0.0.192",  # Oracle, first generation
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS pod identity
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "fe80::a9fe:a9fe",  # OpenStack
    )
)

_CLASSES: tuple[tuple[IPNetwork, str], ...] = tuple(
    (ipaddress.ip_network(network), label)
    for network, label in (
        ("0.0.0.0/8", UNSPECIFIED),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a carrier-grade NAT address"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "a documentation address"),
        ("192.88.99.0/24", "a 6to4 relay address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "a benchmarking address"),
        ("198.51.100.0/24", "a documentation address"),
        ("203.0.113.0/24", "a documentation address"),
        ("224.0.0.0/4", MULTICAST),
        ("255.255.255.255/32", BROADCAST),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", UNSPECIFIED),
        ("::1/128", "a loopback address"),
        ("::/96", "an IPv4-compatible IPv6 address"),
        ("64:ff9b:1::/48", "a private address"),
        ("2001::/32", "a Teredo tunnel address"),
        ("2001::/23", "a reserved address"),
        ("2001:db8::/32", "a documentation address"),
        ("2002::/16", "a 6to4 tunnel address"),
        ("3fff::/20", "a documentation address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("ff00::/8", MULTICAST),
    )
)

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def embedded_ipv4(address: IPAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to the IPv6 ``address`` may end at, else None.

    IPv4-mapped and -compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380), ISATAP (RFC 5214).
    """
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    low = int(address) & 0xFFFF_FFFF
    if address in _NAT64 or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
        return ipaddress.IPv4Address(low)
    if address in _COMPATIBLE and low > 1:
        return ipaddress.IPv4Address(low)
    return None


def plain(address: IPAddress) -> IPAddress:
    """``address`` without its zone, and an IPv4-mapped one as the IPv4 address that the kernel will use."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(int(address))
    return address


def address_class(address: IPAddress) -> str | None:
    """What kind of non-public address this is, ready for an error text; None for a public one.

    An IPv6 address that carries an IPv4 one is judged by both.
    """
    address = plain(address)
    if address in _METADATA_ADDRESSES:
        return METADATA
    inner = embedded_ipv4(address)
    if inner is not None and (label := address_class(inner)) is not None:
        return label
    for network, label in _CLASSES:
        if address.version == network.version and address in network:
            return label
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST and address not in _NAT64:
        return "a reserved address"
    return None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host (name or address) and port that the operator named."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``host:port`` or ``[ipv6]:port``; raises :class:`ConfigurationError`."""
        host, port = _split_port(text)
        return cls(normal_host(host), port)

    @property
    def address(self) -> IPAddress | None:
        """The address when the host is written as one."""
        try:
            return plain(ipaddress.ip_address(self.host))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Allowance:
    """One entry of the list of private destinations that outbound requests may reach."""

    host: str | None
    network: IPNetwork | None
    port: int

    @classmethod
    def parse(cls, text: str) -> Allowance:
        """Read ``host:port``, ``cidr:port`` or ``[ipv6 or cidr]:port``; raises :class:`ConfigurationError`."""
        host, port = _split_port(text)
        try:
            return cls(None, ipaddress.ip_network(host, strict=False), port)
        except ValueError:
            if _NAME.fullmatch(host) is None:
                raise _bad(text) from None
            return cls(normal_host(host), None, port)

    def covers(self, host: str, address: IPAddress, port: int) -> bool:
        """Whether this entry opens ``address`` and ``port`` for a request to ``host``."""
        if port != self.port:
            return False
        if self.network is None:
            return host == self.host
        address = plain(address)
        return address.version == self.network.version and address in self.network


def normal_host(host: str) -> str:
    """A host name as the guard compares it: lower case, without brackets or a final dot."""
    return host.strip("[]").rstrip(".").lower()


def _split_port(text: str) -> tuple[str, int]:
    host, colon, port = text.strip().rpartition(":")
    bare_ipv6 = ":" in host and "/" not in host and not host.startswith("[")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536) or bare_ipv6:
        raise _bad(text)
    return host.strip("[]"), int(port)


def _bad(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text.strip()[:80]!r} is not a network destination: write host:port, cidr:port or [ipv6]:port, "
        f"for example {ALLOW_SETTING}=billing.internal:8080,10.1.0.0/16:443"
    )
