from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.errors import ConfigurationError
from llmteam.net.addresses import METADATA, NEVER, Allowance, Endpoint, address_class


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
        "fe80::a9fe:a9fe",
        "fd00:ec2::254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "2001:db8:1:2:0:5efe:a9fe:a9fe",
    ],
)
def test_cloud_metadata_is_known_in_every_disguise(text: str) -> None:
    assert address_class(ipaddress.ip_address(text)) == METADATA


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("10.1.2.3", "a private address"),
        ("172.31.255.255", "a private address"),
        ("192.168.0.1", "a private address"),
        ("fd12:3456::1", "a private address"),
        ("127.0.0.1", "a loopback address"),
        ("127.255.255.254", "a loopback address"),
        ("::1", "a loopback address"),
        ("::ffff:127.0.0.1", "a loopback address"),
        ("169.254.1.1", "a link-local address"),
        ("fe80::1%eth0", "a link-local address"),
        ("100.64.0.1", "a carrier-grade NAT address"),
        ("0.0.0.0", "an unspecified address"),
        ("0.1.2.3", "an unspecified address"),
        ("::", "an unspecified address"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("255.255.255.255", "a broadcast address"),
        ("240.0.0.1", "a reserved address"),
        ("192.0.2.1", "a documentation address"),
        ("198.18.0.1", "a benchmarking address"),
        ("64:ff9b::10.0.0.1", "a private address"),
        ("64:ff9b:1::8.8.8.8", "a private address"),
        ("2002:0a00:0001::", "a private address"),
        ("2002:0808:0808::", "a 6to4 tunnel address"),
        ("2001:0:4136:e378:8000:63bf:f5ff:fffe", "a private address"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "a documentation address"),
        ("::10.0.0.1", "a private address"),
        ("4000::1", "a reserved address"),
    ],
)
def test_addresses_that_are_not_public_are_named_for_what_they_are(text: str, label: str) -> None:
    assert address_class(ipaddress.ip_address(text)) == label


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::1111", "172.32.0.1"]
)
def test_public_addresses_have_no_class(text: str) -> None:
    assert address_class(ipaddress.ip_address(text)) is None


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public_here(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if address.is_private or address.is_multicast or address.is_unspecified or address.is_loopback:
        assert address_class(address) is not None


@given(st.ip_addresses(v=4))
def test_an_address_carried_in_ipv6_is_no_more_public_than_by_itself(address: ipaddress.IPv4Address) -> None:
    if address_class(address) is not None:
        for prefix in ("::ffff:", "64:ff9b::", "::"):
            carried = address_class(ipaddress.ip_address(f"{prefix}{address}"))
            assert carried is not None
            assert (carried in NEVER) >= (address_class(address) in NEVER)


@pytest.mark.parametrize(
    ("entry", "host", "address", "port", "covered"),
    [
        ("10.1.0.0/16:8080", "any.example", "10.1.2.3", 8080, True),
        ("10.1.0.0/16:8080", "any.example", "10.1.2.3", 8081, False),
        ("10.1.0.0/16:8080", "any.example", "10.2.2.3", 8080, False),
        ("10.1.0.0/16:8080", "any.example", "::ffff:10.1.2.3", 8080, True),
        ("127.0.0.1:9000", "localhost", "127.0.0.1", 9000, True),
        ("[::1]:9000", "localhost", "::1", 9000, True),
        ("[fd00::/8]:443", "x", "fd12::1", 443, True),
        ("fd00::/8:443", "x", "fd12::1", 443, True),
        ("Billing.Internal.:80", "billing.internal", "10.9.9.9", 80, True),
        ("billing.internal:80", "evil.example", "10.9.9.9", 80, False),
    ],
)
def test_an_allowance_opens_its_host_or_network_at_its_port(
    entry: str, host: str, address: str, port: int, covered: bool
) -> None:
    assert Allowance.parse(entry).covers(host, ipaddress.ip_address(address), port) is covered


@pytest.mark.parametrize(
    "entry",
    ["", "host", "host:", ":80", "host:0", "host:70000", "::1:80", "10.0.0.0/99:80", "*:80", "a b:80", "host:８0"],
)
def test_an_allowance_that_says_nothing_definite_is_a_configuration_error(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="LLMTEAM_ALLOW_PRIVATE_NETWORKS"):
        Allowance.parse(entry)


def test_an_endpoint_is_written_as_it_is_read() -> None:
    assert [str(Endpoint.parse(text)) for text in ("A.example:1", "[::1]:2", "1.2.3.4:5")] == [
        "a.example:1",
        "[::1]:2",
        "1.2.3.4:5",
    ]
