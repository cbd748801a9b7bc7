"""The real model SDKs on our transport."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from llmteam.net import (
    InvalidResponseError,
    OutboundGuard,
    OutboundRefusedError,
    RequestCancelledError,
    ResponseTooLargeError,
    request_limit,
    sdk_http_client,
)
from tests.unit.net.loopback import Handler, Loopback
from tests.unit.net.test_client import drip
from tests.waiting import wait_until

COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
MESSAGE = {
    "id": "m1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


def answering(value: dict[str, Any]) -> Any:
    return lambda h: h.answer(body=json.dumps(value).encode(), Content_Type="application/json")


@pytest.fixture
def http(server: Loopback) -> Iterator[httpx2.Client]:
    with sdk_http_client(server.url, 5.0, guard=OutboundGuard()) as made:
        yield made


def ask(http: httpx2.Client, server: Loopback, prompt: str = "hi") -> str | None:
    model = openai.OpenAI(api_key="k", base_url=f"{server.url}/v1", http_client=http, max_retries=0)
    answer = model.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content


def test_the_openai_sdk_speaks_through_it(server: Loopback, http: httpx2.Client) -> None:
    server.routes["/v1/chat/completions"] = answering(COMPLETION)
    assert [ask(http, server), ask(http, server)] == ["hello", "hello"]
    assert len({got.client for got in server.received}) == 1
    assert server.received[0].headers["accept-encoding"] == "identity"


def test_the_anthropic_sdk_speaks_through_it(server: Loopback, http: httpx2.Client) -> None:
    server.routes["/v1/messages"] = answering(MESSAGE)
    model = anthropic.Anthropic(api_key="k", base_url=server.url, http_client=http, max_retries=0)
    answer = model.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}])
    assert answer.content[0].type == "text"


def test_many_threads_share_one_client(server: Loopback, http: httpx2.Client) -> None:
    everyone = threading.Barrier(60)

    def meet(handler: Handler) -> None:
        everyone.wait(20)
        answering(COMPLETION)(handler)

    server.routes["/v1/chat/completions"] = meet
    with ThreadPoolExecutor(60) as threads:
        assert set(threads.map(lambda _: ask(http, server), range(60))) == {"hello"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://example.com/", "http://169.254.169.254/"])
def test_it_serves_the_origin_it_was_made_for_and_no_other(http: httpx2.Client, url: str) -> None:
    with pytest.raises(OutboundRefusedError, match="only"):
        http.get(url)


def test_the_guards_rules_hold_and_their_error_passes_the_openai_sdk_as_it_is(server: Loopback) -> None:
    guard = OutboundGuard(refuse_always=[server.endpoint])
    with sdk_http_client(server.url, 5.0, guard=guard) as http, pytest.raises(OutboundRefusedError):
        ask(http, server)
    assert server.received == []


def test_the_guards_error_is_what_the_anthropic_sdk_raises_or_its_cause(server: Loopback) -> None:
    guard = OutboundGuard(refuse_always=[server.endpoint])
    with sdk_http_client(server.url, 5.0, guard=guard) as http:
        model = anthropic.Anthropic(api_key="k", base_url=server.url, http_client=http, max_retries=0)
        with pytest.raises((OutboundRefusedError, anthropic.APIConnectionError)) as caught:
            model.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}])
    assert isinstance(caught.value.__cause__ or caught.value, OutboundRefusedError)


def test_redirects_are_not_followed(server: Loopback, http: httpx2.Client) -> None:
    server.routes["/go"] = lambda h: h.answer(302, Location="/there")
    assert http.get(f"{server.url}/go").status_code == 302


def test_proxies_of_the_environment_are_ignored(
    server: Loopback, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.routes["/"] = lambda h: h.answer(body=b"here")
    with sdk_http_client(server.url, 5.0, guard=OutboundGuard()) as made:
        assert made.get(server.url).text == "here"


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"], ids=["status line", "body"]
)
def test_a_model_that_drips_is_cut_off_in_time(server: Loopback, head: bytes) -> None:
    server.routes["/v1/chat/completions"] = drip(head)  # type: ignore[assignment]
    began = time.monotonic()
    with sdk_http_client(server.url, 0.4, guard=OutboundGuard()) as http, pytest.raises(openai.APITimeoutError):
        ask(http, server)
    assert time.monotonic() - began < 3


def test_an_outer_limit_ends_a_model_call_early(server: Loopback, http: httpx2.Client) -> None:
    server.routes["/v1/chat/completions"] = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")  # type: ignore[assignment]
    cancelled = threading.Event()

    def call() -> None:
        with request_limit(30, cancelled):
            ask(http, server)

    with request_limit(0.3), pytest.raises(openai.APITimeoutError):
        ask(http, server)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(call)
        wait_until(lambda: len(server.received) == 2, "the call to arrive")
        cancelled.set()
        with pytest.raises((RequestCancelledError, openai.APIConnectionError)):
            answer.result(10)


def test_an_answer_over_the_limit_and_a_compressed_one_are_refused(server: Loopback) -> None:
    server.routes["/big"] = lambda h: h.answer(body=bytes(2000))
    server.routes["/zip"] = lambda h: h.answer(body=gzip.compress(bytes(2000)), Content_Encoding="gzip")
    with sdk_http_client(server.url, 5.0, guard=OutboundGuard(), max_bytes=1000) as http:
        with pytest.raises(ResponseTooLargeError):
            http.get(f"{server.url}/big")
        with pytest.raises(InvalidResponseError, match="compressed"):
            http.get(f"{server.url}/zip")


def test_a_connection_that_breaks_is_the_sdks_connection_error(server: Loopback, http: httpx2.Client) -> None:
    server.routes["/v1/chat/completions"] = lambda h: h.hang_up(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    with pytest.raises(openai.APIConnectionError):
        ask(http, server)
