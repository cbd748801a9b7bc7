from __future__ import annotations

import asyncio

import pytest

from llmteam.errors import ConfigurationError
from llmteam.net import (
    BaseUrlClient,
    HttpClient,
    HTTPStatusError,
    InvalidHeaderError,
    OutboundGuard,
    OutboundRefusedError,
    UrlClient,
)
from tests.unit.net.loopback import Loopback, serving


def test_a_registered_base_url_is_trusted_on_a_private_network(server: Loopback) -> None:
    server.routes["/v1/items"] = lambda h: h.answer(body=b"[]", Content_Type="application/json")
    crm = BaseUrlClient(f"{server.url}/v1", {"Authorization": "Bearer t"}, guard=OutboundGuard())
    answer = asyncio.run(crm.request("GET", "/items?page=2", headers={"X-Trace": "a"}))
    (got,) = server.received
    assert (answer.json(), got.path) == ([], "/v1/items?page=2")
    assert (got.headers["authorization"], got.headers["x-trace"]) == ("Bearer t", "a")
    crm.close()


def test_trust_in_a_registered_endpoint_is_not_shared_with_other_clients(server: Loopback) -> None:
    guard = OutboundGuard()
    server.routes["/"] = lambda h: h.answer()
    crm = BaseUrlClient(server.url, guard=guard)
    crm.send("GET", "/")
    with pytest.raises(OutboundRefusedError):
        HttpClient(guard).request("GET", server.url)
    crm.close()


def test_a_redirect_does_not_carry_trust_to_another_port(server: Loopback) -> None:
    with serving() as other:
        server.routes["/"] = lambda h: h.answer(302, Location=other.url)
        crm = BaseUrlClient(server.url, guard=OutboundGuard())
        with pytest.raises(OutboundRefusedError, match="loopback"):
            crm.send("GET", "/")
        assert other.received == []
        crm.close()


def test_an_own_server_cannot_be_registered_into_reach(server: Loopback) -> None:
    crm = BaseUrlClient(server.url, guard=OutboundGuard(refuse_always=[server.endpoint]))
    with pytest.raises(OutboundRefusedError, match="own servers"):
        crm.send("GET", "/")


def test_own_headers_win_over_registered_ones_whatever_their_case(server: Loopback) -> None:
    server.routes["/"] = lambda h: h.answer()
    crm = BaseUrlClient(server.url, {"X-Mode": "a"}, guard=OutboundGuard())
    crm.send("GET", "/", headers={"x-mode": "b"})
    assert server.received[0].headers["x-mode"] == "b"
    crm.close()


@pytest.mark.parametrize("path", ["../admin", "//evil.example/x", "https://evil.example/", "a/%2e%2e/b"])
def test_a_path_cannot_leave_the_registered_base(server: Loopback, path: str) -> None:
    with pytest.raises(OutboundRefusedError):
        BaseUrlClient(f"{server.url}/v1", guard=OutboundGuard()).send("GET", path)
    assert server.received == []


def test_status_and_time_limits_work_as_in_the_client(server: Loopback) -> None:
    crm = BaseUrlClient(server.url, guard=OutboundGuard())
    with pytest.raises(HTTPStatusError):
        crm.send("GET", "/missing", raise_for_status=True)
    crm.close()


@pytest.mark.parametrize(
    "url",
    ["", "crm.internal", "ftp://crm.internal", "http://user:canary@crm.internal", "http://crm.internal/?k=canary"],
)
def test_a_base_url_that_cannot_be_used_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BaseUrlClient(url)
    assert "canary" not in str(caught.value)


def test_headers_are_checked_at_registration_and_never_shown() -> None:
    with pytest.raises(InvalidHeaderError):
        BaseUrlClient("http://crm.internal", {"X-A": "a\nb"})
    assert "canary" not in repr(BaseUrlClient("http://crm.internal", {"X-A": "canary"}))


def test_a_registered_address_takes_what_is_posted_and_its_secret_path_is_in_no_error(server: Loopback) -> None:
    server.routes["/s3cret"] = lambda handler: handler.answer(202)
    client = UrlClient(f"{server.url}/s3cret?sig=s3cret", timeout=5.0, guard=OutboundGuard())

    client.post(b"{}", {"Content-Type": "application/json"})

    assert server.received[0].path == "/s3cret?sig=s3cret"
    assert (repr(client), client.where) == (f"UrlClient('{server.endpoint}')", server.endpoint)
    server.routes["/s3cret"] = lambda handler: handler.answer(429, Retry_After="7")
    with pytest.raises(HTTPStatusError) as refused:
        client.post(b"{}", {})
    assert (refused.value.status, refused.value.retry_after) == (429, 7.0)
    assert "s3cret" not in str(refused.value)
    client.close()


def test_a_registered_address_is_trusted_and_no_other_of_its_host() -> None:
    with serving() as one, serving() as other:
        one.routes["/"] = lambda handler: handler.answer(307, Location=f"{other.url}/")
        client = UrlClient(one.url, timeout=5.0, guard=OutboundGuard())

        with pytest.raises(HTTPStatusError, match="HTTP 307"):
            client.post(b"{}", {})

        assert other.received == []
        client.close()


def test_a_registered_address_that_is_one_of_our_own_servers_stays_closed() -> None:
    with serving() as server:
        guard = OutboundGuard(refuse_always=[server.endpoint])
        client = UrlClient(f"{server.url}/s3cret", timeout=5.0, guard=guard)

        with pytest.raises(OutboundRefusedError, match="own servers") as refused:
            client.post(b"{}", {})

        assert "s3cret" not in str(refused.value)
        client.close()


@pytest.mark.parametrize("url", ["", "hooks.example.com", "ftp://hooks.example.com", "https://a:s3cret@x/"])
def test_an_address_that_is_none_is_a_matter_of_the_settings(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        UrlClient(url, timeout=5.0)

    assert "s3cret" not in str(refused.value)
