from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.runtime import (
    AnthropicProvider,
    Completion,
    CompletionRequest,
    ModelAuthenticationError,
    ModelNotConfiguredError,
    ModelRateLimitedError,
    ModelRefusedError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
    ModelUnavailableError,
    Usage,
)
from tests.unit.runtime.model_server import ModelServer, Reply, anthropic_error, message

KEY, PROMPT = "sk-ant-very-secret", "a private question"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer().running() as running:
        yield running


def ask(server: ModelServer, script: list[Reply], **request: Any) -> Completion:
    server.script = script
    provider = AnthropicProvider(api_key=KEY, base_url=server.url)
    return asyncio.run(provider.chat(CompletionRequest.of(PROMPT, **{"model": "m", **request})))


def failure(server: ModelServer, reply: Reply, **request: Any) -> LLMTeamError:
    with pytest.raises(LLMTeamError) as caught:
        ask(server, [reply], **request)
    assert KEY not in str(caught.value)
    assert PROMPT not in str(caught.value)
    return caught.value


def test_an_answer_comes_with_text_all_tokens_read_and_a_common_reason(server: ModelServer):
    assert ask(server, [message("Paris")]) == Completion("Paris", Usage(7, 5), "c-1", "stop")
    assert ask(server, [message("Par", reason="max_tokens")]).finish_reason == "length"


def test_the_request_is_a_message_with_the_system_prompt_apart(server: ModelServer):
    ask(server, [message("x")], system_prompt="be brief", temperature=1.7, max_tokens=7)
    received = server.received[0]
    assert received.path == "/v1/messages"
    assert KEY in received.headers["authorization"]
    turns = [{"role": "user", "content": PROMPT}]
    assert received.json == {"model": "m", "max_tokens": 7, "system": "be brief", "temperature": 1.0, "messages": turns}
    ask(server, [message("x")])
    assert server.received[1].json == {"model": "m", "max_tokens": 1000, "messages": turns}


def test_a_schema_is_sent_in_the_form_of_the_api_and_left_out_where_it_has_none(server: ModelServer):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    ask(server, [message("{}")], output_schema=schema)
    sent = server.received[0].json["output_config"]["format"]
    assert sent["type"] == "json_schema"
    assert sent["schema"]["additionalProperties"] is False
    ask(server, [message("{}")], output_schema={"not": {}})
    assert "output_config" not in server.received[1].json


def test_a_schema_that_the_model_refuses_is_left_out_from_then_on(server: ModelServer):
    refusal = anthropic_error(400, "invalid_request_error", "output_config: Extra inputs are not permitted")
    assert ask(server, [refusal, message("{}")], output_schema={"type": "object"}).text == "{}"
    assert [("output_config" in one.json) for one in server.received] == [True, False]


def test_too_many_requests_and_overload_are_retryable_after_the_delay_asked_for(server: ModelServer):
    limited = failure(server, anthropic_error(429, "rate_limit_error", "slow", retry_after="17"))
    assert isinstance(limited, ModelRateLimitedError)
    assert (limited.retryable, limited.retry_after) == (True, 17.0)
    overloaded = failure(server, anthropic_error(529, "overloaded_error", "busy"))
    assert isinstance(overloaded, ModelUnavailableError)
    assert (overloaded.retryable, overloaded.status) == (True, 529)
    assert "overloaded_error" in str(overloaded)
    assert len(server.received) == 2, "the SDK's own retries are off"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ModelRequestError),
        (401, ModelAuthenticationError),
        (403, ModelAuthenticationError),
        (404, ModelRequestError),
    ],
)
def test_refusals_are_permanent_and_quote_nothing(server: ModelServer, status: int, kind: type):
    exc = failure(server, anthropic_error(status, "some_error", f"invalid {KEY} {PROMPT}"))
    assert isinstance(exc, kind)
    assert exc.retryable is False


@pytest.mark.parametrize(
    "reply",
    [Reply(b"{not json"), Reply(b"hello", headers={"content-type": "text/plain"}), Reply({"hello": 1}), message("")],
)
def test_an_answer_that_is_none_is_a_retryable_error_of_its_own(server: ModelServer, reply: Reply):
    exc = failure(server, reply)
    assert isinstance(exc, ModelResponseError)
    assert exc.retryable is True


def test_a_model_that_declines_is_a_permanent_refusal(server: ModelServer):
    exc = failure(server, message("no", reason="refusal"))
    assert isinstance(exc, ModelRefusedError)
    assert exc.retryable is False


def test_the_deadline_covers_the_whole_answer(server: ModelServer):
    gate = threading.Event()
    try:
        exc = failure(server, Reply({}, gate=gate), timeout=0.2)
    finally:
        gate.set()
    assert isinstance(exc, ModelTimeoutError)


def test_a_provider_needs_a_key_and_never_shows_it():
    with pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY"):
        AnthropicProvider(api_key="")
    assert KEY not in repr(AnthropicProvider(api_key=KEY))


def test_a_missing_sdk_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "anthropic", None)
    with pytest.raises(ModelNotConfiguredError, match=r"pip install 'llmteam\[anthropic\]'"):
        asyncio.run(AnthropicProvider(api_key=KEY, model="m").complete(PROMPT))


def test_a_temperature_that_the_model_refuses_is_left_out_from_then_on(server: ModelServer):
    refusal = anthropic_error(400, "invalid_request_error", "temperature: Extra inputs are not permitted")
    assert ask(server, [refusal, message("x")], temperature=0.5).text == "x"
    assert [("temperature" in one.json) for one in server.received] == [True, False]
