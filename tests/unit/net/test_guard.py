from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Sequence

import pytest

from llmteam.net.errors import ConnectError, OutboundRefusedError, RequestCancelledError
from llmteam.net.guard import OutboundGuard, Resolved
from llmteam.net.sockets import Limit
from tests.unit.net.loopback import Loopback

PUBLIC = ipaddress.ip_address("93.184.215.14")


class Names:
    """A resolver with answers of its own; each list of answers is used up one by one, the last stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(lists) for name, lists in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[Resolved]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        lists = self.answers[host]
        addresses = lists.pop(0) if len(lists) > 1 else lists[0]
        return [
            (int(socket.AF_INET6), (address, port, 0, 0)) if ":" in address else (int(socket.AF_INET), (address, port))
            for address in addresses
        ]


def refused(guard: OutboundGuard, host: str, address: str, port: int = 80) -> str:
    with pytest.raises(OutboundRefusedError) as caught:
        guard.check(host, ipaddress.ip_address(address), port)
    assert caught.value.retryable is False
    return str(caught.value)


def test_public_addresses_are_open_and_private_ones_are_not() -> None:
    guard = OutboundGuard()
    guard.check("example.com", PUBLIC, 443)
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "0.0.0.0", "100.64.0.1"):
        refused(guard, "example.com", address)


def test_a_refusal_names_class_and_setting_but_not_the_address() -> None:
    text = refused(OutboundGuard(), "crm.internal", "10.20.30.40", 8080)
    assert "crm.internal:8080" in text
    assert "a private address" in text
    assert "LLMTEAM_ALLOW_PRIVATE_NETWORKS" in text
    assert "10.20.30.40" not in text


def test_an_allowance_opens_exactly_what_it_says() -> None:
    guard = OutboundGuard(allow_private=["crm.internal:8080", "10.1.0.0/16:443"])
    guard.check("crm.internal", ipaddress.ip_address("10.9.9.9"), 8080)
    guard.check("other.internal", ipaddress.ip_address("10.1.9.9"), 443)
    refused(guard, "crm.internal", "10.9.9.9", 8081)
    refused(guard, "other.internal", "10.9.9.9", 8080)
    refused(guard, "other.internal", "10.1.9.9", 80)


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "0.0.0.0", "224.0.0.1"]
)
def test_metadata_and_unusable_addresses_stay_closed_whatever_is_allowed(address: str) -> None:
    guard = OutboundGuard(allow_private=["0.0.0.0/0:80", "[::/0]:80", "evil.example:80"], trusted=["evil.example:80"])
    assert "no setting allows that" in refused(guard, "evil.example", address)


def test_a_trusted_endpoint_is_open_by_exact_host_and_port_on_its_own_guard_only() -> None:
    guard = OutboundGuard()
    trusting = guard.trusting("vault.internal:8200")
    address = ipaddress.ip_address("10.0.0.5")
    trusting.check("Vault.internal.", address, 8200)
    refused(trusting, "vault.internal", "10.0.0.5", 8201)
    refused(trusting, "other.internal", "10.0.0.5", 8200)
    refused(guard, "vault.internal", "10.0.0.5", 8200)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("db.internal", "10.0.0.7"),
        ("alias.example", "10.0.0.7"),
        ("alias.example", "::ffff:10.0.0.7"),
        ("db.internal", str(PUBLIC)),
    ],
)
def test_own_servers_are_refused_by_name_and_by_address_even_when_allowed_or_trusted(host: str, address: str) -> None:
    guard = OutboundGuard(
        allow_private=["10.0.0.0/8:5432"],
        trusted=["db.internal:5432", "alias.example:5432"],
        refuse_always=["db.internal:5432"],
        resolver=Names(db_internal=[["10.0.0.7"]]),
    )
    assert "own servers" in refused(guard, host, address, 5432)


def test_a_neighbour_of_an_own_server_is_not_refused_for_its_port() -> None:
    guard = OutboundGuard(
        allow_private=["10.0.0.0/8:5432"],
        refuse_always=["db.internal:5432"],
        resolver=Names(db_internal=[["10.0.0.7"]]),
    )
    guard.check("other.internal", ipaddress.ip_address("10.0.0.8"), 5432)
    guard.check("example.com", PUBLIC, 5432)


def test_an_own_server_on_this_machine_is_met_on_every_loopback_address() -> None:
    guard = OutboundGuard(allow_private=["127.0.0.0/8:5432", "[::1]:5432"], refuse_always=["127.0.0.1:5432"])
    for address in ("127.0.0.1", "127.8.8.8", "::1"):
        assert "own servers" in refused(guard, "localhost", address, 5432)


def test_an_own_server_whose_name_cannot_be_resolved_keeps_its_port_closed_on_private_addresses() -> None:
    guard = OutboundGuard(allow_private=["10.0.0.0/8:5432"], refuse_always=["db.internal:5432"], resolver=Names())
    assert "own servers" in refused(guard, "10.0.0.7", "10.0.0.7", 5432)
    guard.check("example.com", PUBLIC, 5432)


def test_refusing_adds_own_servers_to_a_guard() -> None:
    guard = OutboundGuard(allow_private=["127.0.0.1:5555"])
    guard.check("127.0.0.1", ipaddress.ip_address("127.0.0.1"), 5555)
    refused(guard.refusing("127.0.0.1:5555"), "127.0.0.1", "127.0.0.1", 5555)


def test_only_the_allowed_addresses_of_a_name_are_used() -> None:
    guard = OutboundGuard(resolver=Names(mixed_example=[["10.0.0.1", str(PUBLIC), "::1"]]))
    assert [sockaddr[0] for _, sockaddr in guard.resolve("mixed.example", 80, Limit(5))] == [str(PUBLIC)]


def test_a_name_with_a_metadata_address_among_others_is_refused_as_a_whole() -> None:
    guard = OutboundGuard(resolver=Names(mixed_example=[[str(PUBLIC), "169.254.169.254"]]))
    with pytest.raises(OutboundRefusedError, match="metadata"):
        guard.resolve("mixed.example", 80, Limit(5))


def test_the_connection_goes_to_the_address_that_was_checked(server: Loopback) -> None:
    """DNS rebinding: the second answer of the name would lead elsewhere, and is never asked for."""
    names = Names(rebind_example=[["127.0.0.1"], ["127.0.0.2"]])
    guard = OutboundGuard(allow_private=[server.endpoint], resolver=names)
    with guard.connect("rebind.example", server.port, Limit(5)) as sock:
        assert sock.getpeername()[0] == "127.0.0.1"
    assert names.asked == ["rebind.example"]
    with pytest.raises(OutboundRefusedError, match="loopback"):
        guard.connect("rebind.example", server.port, Limit(5))


def test_the_next_address_is_tried_when_one_does_not_answer(server: Loopback) -> None:
    names = Names(two_example=[["127.0.0.9", "127.0.0.1"]])
    guard = OutboundGuard(allow_private=[f"127.0.0.0/8:{server.port}"], resolver=names)
    with guard.connect("two.example", server.port, Limit(5)) as sock:
        assert sock.getpeername()[0] == "127.0.0.1"


def test_an_unknown_name_is_a_connect_error_that_may_pass() -> None:
    with pytest.raises(ConnectError, match=r"nowhere\.example:80.*cannot be resolved") as caught:
        OutboundGuard(resolver=Names()).connect("nowhere.example", 80, Limit(5))
    assert caught.value.retryable is True


def test_a_closed_port_is_a_connect_error() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(ConnectError, match="refused"):
            OutboundGuard(allow_private=[f"127.0.0.1:{port}"]).connect("127.0.0.1", port, Limit(5))


def test_a_resolver_that_never_answers_ends_with_the_limit_or_the_cancellation() -> None:
    over = threading.Event()

    def silent(host: str, port: int) -> Sequence[Resolved]:
        over.wait(20)
        return []

    guard = OutboundGuard(resolver=silent)
    cancelled = threading.Event()
    cancelled.set()
    try:
        with pytest.raises(TimeoutError):
            guard.resolve("slow.example", 80, Limit(0.05))
        with pytest.raises(RequestCancelledError):
            guard.resolve("slow.example", 80, Limit(10, cancelled))
    finally:
        over.set()


@pytest.mark.parametrize("host", ["localhost", "localhost.", "127.1", "0x7f.1", "2130706433", "[::1]", "::1", "0"])
def test_names_and_spellings_that_the_system_leads_to_loopback_are_refused_at_the_connection(host: str) -> None:
    with pytest.raises((OutboundRefusedError, ConnectError)) as caught:
        OutboundGuard().connect(host, 1, Limit(5))
    if isinstance(caught.value, ConnectError):
        assert "cannot be resolved" in str(caught.value)
