from __future__ import annotations

import gzip
import os
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmteam.errors import NotJSONError
from llmteam.net import (
    CertificateError,
    ConnectError,
    HttpClient,
    InvalidHeaderError,
    InvalidResponseError,
    OutboundGuard,
    OutboundRefusedError,
    RequestCancelledError,
    RequestTimeoutError,
    ResponseTooLargeError,
)
from llmteam.net.transport import tls_context
from tests.unit.net.loopback import Handler, Loopback, certificate, server_context, serving
from tests.unit.net.test_guard import Names
from tests.waiting import wait_until


def test_a_request_carries_method_headers_and_json_and_brings_back_the_answer(
    server: Loopback, client: HttpClient
) -> None:
    server.routes["/items"] = lambda h: h.answer(201, b'{"id": 7}', Content_Type="application/json; charset=utf-8")
    answer = client.request("POST", f"{server.url}/items?x=1", headers={"X-Trace": "abc"}, json={"name": "ä"})
    (got,) = server.received
    assert (got.method, got.path, got.headers["x-trace"]) == ("POST", "/items?x=1", "abc")
    assert (got.headers["content-type"], got.body) == ("application/json", '{"name":"ä"}'.encode())
    assert got.headers["host"] == server.endpoint
    assert (answer.status, answer.ok, answer.is_json, answer.json()) == (201, True, True, {"id": 7})


def test_connections_are_reused(server: Loopback, client: HttpClient) -> None:
    server.routes["/"] = lambda h: h.answer(body=b"x" * 1000)
    for _ in range(5):
        client.request("GET", server.url)
    assert len({got.client for got in server.received}) == 1


def test_hundreds_of_threads_share_one_client(server: Loopback, client: HttpClient) -> None:
    everyone = threading.Barrier(200)

    def meet(handler: Handler) -> None:
        everyone.wait(20)
        handler.answer(body=handler.path.encode())

    server.routes["/meet"] = meet
    with ThreadPoolExecutor(200) as threads:
        urls = [f"{server.url}/meet?{number}" for number in range(200)]
        answers = list(threads.map(lambda url: client.request("GET", url, timeout=25).body.decode(), urls))
    assert answers == [f"/meet?{number}" for number in range(200)]


def test_a_private_address_is_refused_and_nothing_is_sent(server: Loopback) -> None:
    with pytest.raises(OutboundRefusedError, match="loopback"):
        HttpClient(OutboundGuard()).request("GET", server.url)
    assert server.received == []


def test_another_port_of_an_allowed_host_is_refused(server: Loopback, client: HttpClient) -> None:
    with serving() as other, pytest.raises(OutboundRefusedError):
        client.request("GET", other.url)


def test_proxies_and_credentials_of_the_environment_are_ignored(
    server: Loopback, client: HttpClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.routes["/"] = lambda h: h.answer()
    client.request("GET", server.url)
    assert "authorization" not in server.received[0].headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "a\r\nX-B: c"),
        ("X-A", "a\nb"),
        ("X-A", "a\x00b"),
        ("X-A\r\nX-B", "a"),
        ("X A", "a"),
        ("", "a"),
        ("X-A:", "a"),
        ("X-Ä", "a"),
        ("X-A", "漢"),
        ("Host", "evil.example"),
        ("Content-Length", "0"),
        ("transfer-encoding", "chunked"),
        ("X-A", 1),
    ],
)
def test_headers_that_could_smuggle_something_are_refused_without_showing_their_value(
    server: Loopback, client: HttpClient, name: str, value: str
) -> None:
    with pytest.raises(InvalidHeaderError) as caught:
        client.request("GET", server.url, headers={name: value})
    assert caught.value.retryable is False
    assert server.received == []


@pytest.mark.parametrize("method", ["GET\r\nX: y", "TRACE", "CONNECT", "get", ""])
def test_unknown_methods_are_refused(server: Loopback, client: HttpClient, method: str) -> None:
    with pytest.raises(OutboundRefusedError, match="method"):
        client.request(method, server.url)


def test_a_body_that_json_cannot_carry_is_refused_before_anything_is_sent(server: Loopback, client: HttpClient) -> None:
    with pytest.raises(NotJSONError):
        client.request("POST", server.url, json={"x": float("nan")})
    assert server.received == []


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_answers_are_unpacked(server: Loopback, client: HttpClient, encoding: str, pack: object) -> None:
    assert callable(pack)
    server.routes["/"] = lambda h: h.answer(body=pack(b"hello" * 100), Content_Encoding=encoding)
    assert client.request("GET", server.url).body == b"hello" * 100


def test_the_limit_on_bytes_counts_them_after_decompression(server: Loopback, client: HttpClient) -> None:
    bomb = gzip.compress(gzip.compress(bytes(50_000_000)))
    server.routes["/bomb"] = lambda h: h.answer(body=bomb, Content_Encoding="gzip, gzip")
    with pytest.raises(ResponseTooLargeError, match="1,000,000") as caught:
        client.request("GET", f"{server.url}/bomb", max_bytes=1_000_000)
    assert caught.value.retryable is False


def test_an_answer_of_exactly_the_limit_is_fine_and_one_byte_more_is_not(server: Loopback, client: HttpClient) -> None:
    server.routes["/"] = lambda h: h.answer(body=b"x" * 1000)
    assert len(client.request("GET", server.url, max_bytes=1000).body) == 1000
    with pytest.raises(ResponseTooLargeError):
        client.request("GET", server.url, max_bytes=999)


def test_an_endless_answer_ends_at_the_limit(server: Loopback, client: HttpClient) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while not handler.server.over.is_set():
            handler.wfile.write(b"2710\r\n" + bytes(10_000) + b"\r\n")

    server.routes["/endless"] = endless
    with pytest.raises(ResponseTooLargeError):
        client.request("GET", f"{server.url}/endless")


def drip(head: bytes) -> object:
    """A route that sends ``head`` and then a byte now and then, for ever."""

    def route(handler: Handler) -> None:
        handler.wfile.write(head)
        while not handler.server.over.wait(0.05):
            handler.wfile.write(b"a")
            handler.wfile.flush()

    return route


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"],
    ids=["status line", "headers", "body"],
)
def test_a_server_that_sends_a_byte_now_and_then_is_cut_off_in_time(
    server: Loopback, client: HttpClient, head: bytes
) -> None:
    server.routes["/slow"] = drip(head)  # type: ignore[assignment]
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"/slow timed out after 0\.4 s") as caught:
        client.request("GET", f"{server.url}/slow?q=canary", timeout=0.4)
    assert time.monotonic() - began < 3
    assert caught.value.retryable is True
    assert "canary" not in str(caught.value)


def test_a_request_ends_when_its_work_is_cancelled(server: Loopback, client: HttpClient) -> None:
    server.routes["/slow"] = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")  # type: ignore[assignment]
    cancelled = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(client.request, "GET", f"{server.url}/slow", timeout=30, cancelled=cancelled)
        wait_until(lambda: server.received, "the request to arrive")
        cancelled.set()
        with pytest.raises(RequestCancelledError):
            answer.result(10)


def test_a_connection_that_breaks_is_a_connect_error(server: Loopback, client: HttpClient) -> None:
    server.routes["/half"] = lambda h: h.hang_up(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    server.routes["/noise"] = lambda h: h.hang_up(b"noise\r\n\r\n")
    for path in ("/half", "/noise"):
        with pytest.raises(ConnectError, match=path) as caught:
            client.request("GET", f"{server.url}{path}?q=canary")
        assert caught.value.retryable is True
        assert "canary" not in f"{caught.value} {caught.value.__context__} {caught.value.__cause__}"


def test_broken_compression_is_an_invalid_response(server: Loopback, client: HttpClient) -> None:
    server.routes["/"] = lambda h: h.answer(body=b"no gzip at all", Content_Encoding="gzip")
    with pytest.raises(InvalidResponseError, match="compression"):
        client.request("GET", server.url)


def test_a_name_is_verified_in_the_certificate_although_the_address_is_pinned(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "service.example")
    names = Names(service_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])
    with serving(server_context(pem)) as server:
        server.routes["/"] = lambda h: h.answer(body=h.headers["Host"].encode())
        guard = OutboundGuard(allow_private=[server.endpoint], resolver=names)
        client = HttpClient(guard, context=tls_context(pem))
        url = f"https://service.example:{server.port}/"
        assert client.request("GET", url).body == f"service.example:{server.port}".encode()
        with pytest.raises(CertificateError, match=r"other\.example.*mismatch") as caught:
            client.request("GET", f"https://other.example:{server.port}/")
        assert caught.value.retryable is False
        with pytest.raises(CertificateError, match="self-signed"):
            HttpClient(guard).request("GET", url)
        client.close()


def test_time_runs_out_under_tls_too(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "service.example")
    with serving(server_context(pem)) as server:
        server.routes["/slow"] = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")  # type: ignore[assignment]
        names = Names(service_example=[["127.0.0.1"]])
        guard = OutboundGuard(allow_private=[server.endpoint], resolver=names)
        client = HttpClient(guard, context=tls_context(pem))
        with pytest.raises(RequestTimeoutError):
            client.request("GET", f"https://service.example:{server.port}/slow", timeout=0.5)
        client.close()


def test_a_forked_child_makes_connections_of_its_own(server: Loopback, client: HttpClient) -> None:
    server.routes["/"] = lambda h: h.answer()
    client.request("GET", server.url)
    pool = client._pool()
    assert client._pool() is pool
    client._pid = os.getpid() + 1
    assert client._pool() is not pool
