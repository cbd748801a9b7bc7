"""Pure: reading URLs so strictly that what was checked is what is sent."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

import idna

from llmteam.net.errors import OutboundRefusedError

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL = 8192

_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
#: What stays as it is in a path or query; everything else is percent-encoded (RFC 3986, section 2).
_SAFE = "/:@!$&'()*+,;=~-._?%"
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Target:
    """A checked http or https URL, in parts. ``host`` has no brackets, ``path`` begins with a slash."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = field(default="", repr=False)

    @property
    def origin(self) -> tuple[str, str, int]:
        """What decides whether two URLs lead to the same server (RFC 6454)."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and, when it is not the scheme's own, port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL as it is sent."""
        return f"{self.scheme}://{self.authority}{self.path}" + (f"?{self.query}" if self.query else "")

    @property
    def where(self) -> str:
        """What error texts show: host and path."""
        shown = f"{self.authority}{self.path}"
        return shown if len(shown) <= 200 else f"{shown[:199]}…"


def parse_target(url: str) -> Target:
    """Read an absolute URL.

    Refused with :class:`OutboundRefusedError`: schemes other than http and https, a user name or password, control
    characters, blanks and backslashes, unusual spellings of IP addresses (decimal, octal, hexadecimal, short), zones.
    """
    if not isinstance(url, str) or not url or len(url) > MAX_URL or _FORBIDDEN.search(url):
        raise _refused(f"the URL is empty, over {MAX_URL} characters, or has blanks, control characters or backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused("the URL cannot be read") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise _refused(f"the scheme is {parts.scheme[:20]!r}", "use http or https")
    if "@" in parts.netloc:
        raise _refused("the URL carries a user name or password", "send credentials in a header, from a secret")
    if port == 0:
        raise _refused("port 0 is no port")
    return Target(
        scheme=parts.scheme,
        host=parse_host(parts.hostname or "", literal_ipv6="[" in parts.netloc),
        port=DEFAULT_PORTS[parts.scheme] if port is None else port,
        path=_encode(parts.path) or "/",
        query=_encode(parts.query),
    )


def parse_host(host: str, *, literal_ipv6: bool = False) -> str:
    """A host in the one form that is checked and sent: lower-case ASCII, no final dot, IP addresses in full."""
    if literal_ipv6:
        return _ipv6(host)
    name = host if host.isascii() else _to_ascii(host)
    name = name.lower().removesuffix(".")
    if _HOST.fullmatch(name) is None:
        _no_host(host)
    if _NUMERIC_LABEL.fullmatch(name.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise _refused(
                "the host is an unusual spelling of an IP address", "write it as four decimal numbers"
            ) from None
    return name


def join_path(base: Target, path: str) -> Target:
    """``base`` extended by ``path`` (which may have a query). A path cannot leave the base's host or folder."""
    if _SCHEME.match(path) or path.startswith("//") or _FORBIDDEN.search(path):
        raise OutboundRefusedError(
            base.authority, "the path is a URL of its own, or has blanks, control characters or backslashes"
        )
    path, _, query = path.partition("#")[0].partition("?")
    whole = _encode(f"{base.path.rstrip('/')}/{path.lstrip('/')}") if path.strip("/") else base.path
    check_segments(base.authority, whole)
    return replace(base, path=whole, query=_encode(query))


def check_segments(where: str, path: str) -> None:
    """Refuse a path with ``.`` or ``..`` segments, which servers and libraries resolve in different ways."""
    if any(unquote(segment) in (".", "..") for segment in path.split("/")):
        raise OutboundRefusedError(where, "the path has a '.' or '..' segment", "write the path in full")


def _encode(text: str) -> str:
    return quote(_BAD_PERCENT.sub("%25", text), safe=_SAFE)


def _ipv6(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        _no_host(host)
    if address.scope_id is not None:
        raise _refused("the host has an IPv6 zone")
    return str(address)


def _to_ascii(host: str) -> str:
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError:
        _no_host(host)


def _no_host(host: str) -> NoReturn:
    raise _refused("the URL has no usable host name" if host else "the URL has no host")


def _refused(reason: str, remedy: str = "") -> OutboundRefusedError:
    return OutboundRefusedError("a URL", reason, remedy)
