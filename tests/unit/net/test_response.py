from __future__ import annotations

import pickle
from datetime import UTC, datetime

import pytest

from llmteam.net import HttpClient, HTTPStatusError, InvalidResponseError
from llmteam.net.headers import media_type, retry_after
from llmteam.net.response import HttpResponse
from tests.unit.net.loopback import Loopback

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 40, 86_400.0),
        ("Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 13:00:30 +0100", 30.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 24 Nov 2062 12:00:00 GMT", 86_400.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (401, False), (404, False), (408, True), (425, True), (429, True), (500, True), (503, True)],
)
def test_an_error_status_says_whether_another_try_may_help(status: int, retryable: bool) -> None:
    error = HTTPStatusError(status, "api.example/x", 3.0)
    again = pickle.loads(pickle.dumps(error))
    assert (again.retryable, again.retry_after, again.status, str(again)) == (retryable, 3.0, status, str(error))


def test_an_error_status_is_raised_on_request_with_its_delay_and_without_query_headers_or_body(
    server: Loopback, client: HttpClient
) -> None:
    server.routes["/busy"] = lambda h: h.answer(429, b"canary" * 1_000_000, Retry_After="7", X_Info="canary")
    with pytest.raises(HTTPStatusError) as caught:
        client.request(
            "POST", f"{server.url}/busy?key=canary", headers={"X-Key": "canary"}, json="canary", raise_for_status=True
        )
    assert caught.value.retry_after == 7.0
    assert str(caught.value) == f"{server.endpoint}/busy answered HTTP 429"
    assert "canary" not in repr(caught.value)


@pytest.mark.parametrize(
    ("content_type", "media", "charset", "json"),
    [
        ("application/json", "application/json", "", True),
        ("Application/Problem+JSON; charset=UTF-8", "application/problem+json", "utf-8", True),
        ("text/html; charset=iso-8859-1", "text/html", "iso-8859-1", False),
        ("", "", "", False),
        ("nonsense", "text/plain", "", False),
    ],
)
def test_the_content_type_is_read(content_type: str, media: str, charset: str, json: bool) -> None:
    assert media_type(content_type) == (media, charset)
    assert HttpResponse(200, {"content-type": content_type}, b"").is_json is json


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_a_body_that_is_no_json_is_an_invalid_response(body: bytes) -> None:
    with pytest.raises(InvalidResponseError, match=r"api\.example/x"):
        HttpResponse(200, {}, body, "api.example/x").json()


def test_text_is_decoded_by_its_charset() -> None:
    assert HttpResponse(200, {"content-type": "text/plain; charset=latin-1"}, b"\xe4").text == "ä"
    assert HttpResponse(200, {}, "ä".encode()).text == "ä"
    for headers in ({}, {"content-type": "text/plain; charset=nonsense"}):
        with pytest.raises(InvalidResponseError):
            _ = HttpResponse(200, headers, b"\xe4").text


def test_neither_headers_nor_body_show_in_the_repr() -> None:
    assert "canary" not in repr(HttpResponse(200, {"set-cookie": "canary"}, b"canary", "api.example/x"))
