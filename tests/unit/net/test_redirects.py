from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmteam.net import HttpClient, OutboundGuard, OutboundRefusedError
from llmteam.net.transport import tls_context
from tests.unit.net.loopback import Loopback, certificate, server_context, serving
from tests.unit.net.test_guard import Names


@pytest.fixture
def other() -> Iterator[Loopback]:
    with serving() as running:
        running.routes["/there"] = lambda h: h.answer(body=b"there")
        yield running


@pytest.fixture
def both(server: Loopback, other: Loopback) -> HttpClient:
    return HttpClient(OutboundGuard(allow_private=[server.endpoint, other.endpoint]))


def redirecting(server: Loopback, status: int, location: str) -> str:
    server.routes["/go"] = lambda h: h.answer(status, Location=location)
    server.routes["/there"] = lambda h: h.answer(body=b"there")
    return f"{server.url}/go"


def test_a_redirect_is_followed_within_the_host_with_all_headers(server: Loopback, client: HttpClient) -> None:
    url = redirecting(server, 302, "there?x=1")
    answer = client.request("GET", url, headers={"Authorization": "Bearer t"})
    assert (answer.body, server.received[1].path) == (b"there", "/there?x=1")
    assert server.received[1].headers["authorization"] == "Bearer t"


def test_secrets_do_not_follow_a_redirect_to_another_host(server: Loopback, other: Loopback, both: HttpClient) -> None:
    url = redirecting(server, 307, f"{other.url}/there")
    secrets = {"Authorization": "canary", "X-API-Key": "canary", "Cookie": "canary", "PRIVATE-TOKEN": "canary"}
    both.request("POST", url, headers={**secrets, "Idempotency-Key": "k", "Accept": "text/plain"}, json={"a": 1})
    (got,) = other.received
    assert "canary" not in str(got.headers)
    assert (got.headers["idempotency-key"], got.headers["accept"], got.headers["host"]) == (
        "k",
        "text/plain",
        other.endpoint,
    )


@pytest.mark.parametrize(
    ("method", "status", "then"),
    [
        ("POST", 301, "GET"),
        ("POST", 302, "GET"),
        ("POST", 303, "GET"),
        ("PUT", 303, "GET"),
        ("DELETE", 303, "GET"),
        ("PUT", 301, "PUT"),
        ("POST", 307, "POST"),
        ("POST", 308, "POST"),
        ("PATCH", 308, "PATCH"),
        ("HEAD", 303, "HEAD"),
    ],
)
def test_method_and_body_follow_a_redirect_as_its_status_says(
    server: Loopback, client: HttpClient, method: str, status: int, then: str
) -> None:
    client.request(method, redirecting(server, status, "/there"), data=b"body", headers={"Content-Type": "text/plain"})
    got = server.received[1]
    assert got.method == then
    assert got.body == (b"body" if then == method else b"")
    assert ("content-type" in got.headers) is (then == method)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        ("http://[::ffff:169.254.169.254]/", "metadata"),
        ("http://localhost:1/", "loopback"),
        ("//127.0.0.1:1/", "loopback"),
        ("http://2130706433/", "unusual spelling"),
        ("file:///etc/passwd", "scheme"),
        ("http://user@example.com/", "user name"),
        ("http://[broken/", "empty"),
    ],
)
def test_each_hop_is_checked_anew(server: Loopback, client: HttpClient, location: str, reason: str) -> None:
    with pytest.raises(OutboundRefusedError, match=reason):
        client.request("GET", redirecting(server, 302, location))


def test_redirects_end_after_a_bounded_number(server: Loopback, client: HttpClient) -> None:
    with pytest.raises(OutboundRefusedError, match="more than 5 redirects"):
        client.request("GET", redirecting(server, 302, "/go"))
    assert len(server.received) == 6


def test_with_no_redirects_allowed_the_redirect_is_the_answer(server: Loopback, client: HttpClient) -> None:
    answer = client.request("GET", redirecting(server, 302, "/there"), max_redirects=0)
    assert (answer.status, answer.headers["location"]) == (302, "/there")


def test_a_redirect_from_https_to_http_is_refused(tmp_path: Path, server: Loopback) -> None:
    pem = certificate(tmp_path, "service.example")
    with serving(server_context(pem)) as secure:
        secure.routes["/"] = lambda h: h.answer(302, Location=f"{server.url}/there")
        guard = OutboundGuard(
            allow_private=[secure.endpoint, server.endpoint], resolver=Names(service_example=[["127.0.0.1"]])
        )
        client = HttpClient(guard, context=tls_context(pem))
        with pytest.raises(OutboundRefusedError, match="https to http"):
            client.request("GET", f"https://service.example:{secure.port}/")
        client.close()
    assert server.received == []
