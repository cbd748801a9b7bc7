from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.net import OutboundGuard, OutboundRefusedError, ResponseTooLargeError
from llmteam.net.sdk_async import async_sdk_http_client
from llmteam.runtime import (
    ChatMessage,
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
    OpenAIProvider,
    Usage,
)
from tests.unit.runtime.model_server import ModelServer, Reply, chat_completion, openai_error
from tests.waiting import wait_until_async

KEY, PROMPT = "sk-very-secret", "a private question"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer().running() as running:
        yield running


def provider(server: ModelServer, **options: Any) -> OpenAIProvider:
    return OpenAIProvider(api_key=KEY, base_url=f"{server.url}/v1", **options)


def ask(
    server: ModelServer, script: list[Reply], *, options: dict[str, Any] | None = None, **request: Any
) -> Completion:
    server.script = script
    return asyncio.run(
        provider(server, **options or {}).chat(CompletionRequest.of(PROMPT, **{"model": "m", **request}))
    )


def failure(server: ModelServer, reply: Reply, **request: Any) -> LLMTeamError:
    with pytest.raises(LLMTeamError) as caught:
        ask(server, [reply], **request)
    assert KEY not in str(caught.value)
    assert PROMPT not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return caught.value


def test_an_answer_comes_with_text_tokens_model_and_reason(server: ModelServer):
    answer = ask(server, [chat_completion("Paris")])
    assert answer == Completion("Paris", Usage(3, 5), "m-1", "stop")


def test_the_request_is_a_chat_completion_with_what_was_set_and_nothing_else(server: ModelServer):
    request = CompletionRequest(
        (ChatMessage("user", "a"), ChatMessage("assistant", "b"), ChatMessage("user", "c")),
        system_prompt="be brief",
        model="m",
        temperature=0.2,
        max_tokens=7,
        output_schema={"type": "object"},
    )
    server.script = [chat_completion("x")]
    asyncio.run(provider(server).chat(request))
    received = server.received[0]
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.json == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "temperature": 0.2,
        "max_tokens": 7,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
    }
    ask(server, [chat_completion("x")])
    assert server.received[1].json == {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}


def test_complete_is_the_text_of_a_chat_with_one_turn(server: ModelServer):
    server.script = [chat_completion("Paris")]
    text = asyncio.run(provider(server, model="own").complete("capital?", system_prompt="geography"))
    assert text == "Paris"
    assert server.received[0].json["model"] == "own"
    assert [turn["role"] for turn in server.received[0].json["messages"]] == ["system", "user"]
    with pytest.raises(TypeError, match="tempreature"):
        asyncio.run(provider(server).complete("x", tempreature=1))


def test_an_answer_without_usage_has_none(server: ModelServer):
    assert ask(server, [chat_completion("x", tokens=None)]).usage is None


def test_a_server_of_ones_own_needs_no_key_and_is_reached_although_loopback_is_private(server: ModelServer):
    server.script = [chat_completion("x")]
    keyless = OpenAIProvider(base_url=f"{server.url}/v1", model="m")
    assert asyncio.run(keyless.complete("hi")) == "x"


def test_too_many_requests_is_retryable_after_the_delay_that_was_asked_for(server: ModelServer):
    exc = failure(server, openai_error(429, f"slow down {PROMPT}", retry_after="17"))
    assert isinstance(exc, ModelRateLimitedError)
    assert (exc.retryable, exc.retry_after, exc.status) == (True, 17.0, 429)
    assert len(server.received) == 1, "the SDK's own retries are off"


def test_an_exhausted_quota_is_not_retried(server: ModelServer):
    exc = failure(server, openai_error(429, "pay", code="insufficient_quota"))
    assert isinstance(exc, ModelRequestError)
    assert exc.retryable is False
    assert "insufficient_quota" in str(exc)


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 529])
def test_faults_of_the_server_are_retryable(server: ModelServer, status: int):
    exc = failure(server, openai_error(status, "oops", retry_after="2"))
    assert isinstance(exc, ModelUnavailableError)
    assert (exc.retryable, exc.retry_after, exc.status) == (True, 2.0, status)
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (400, ModelRequestError, "HTTP 400"),
        (401, ModelAuthenticationError, "check the API key"),
        (403, ModelAuthenticationError, "check the API key"),
        (404, ModelRequestError, "check the model's name"),
        (413, ModelRequestError, "HTTP 413"),
        (422, ModelRequestError, "HTTP 422"),
    ],
)
def test_refusals_are_permanent_and_quote_nothing(server: ModelServer, status: int, kind: type, says: str):
    exc = failure(server, openai_error(status, f"Incorrect API key {KEY} for {PROMPT}", code="some_code"))
    assert isinstance(exc, kind)
    assert exc.retryable is False
    assert says in str(exc)
    assert "(some_code)" in str(exc)


def test_an_error_code_that_is_a_sentence_is_left_out(server: ModelServer):
    assert "(" not in str(failure(server, openai_error(400, "x", code=f"no {PROMPT}"))).replace("(some_error)", "")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"{not json"),
        Reply(b"<html>hello</html>", headers={"content-type": "text/html"}),
        Reply({"choices": []}),
        Reply({"choices": None}),
        Reply({"hello": "world"}),
        Reply([1, 2]),
        Reply({"choices": [{"message": None, "finish_reason": "stop", "index": 0}]}),
        chat_completion(None),
        chat_completion(""),
        Reply(b"\xff\xfe{}"),
    ],
)
def test_an_answer_that_is_none_is_a_retryable_error_of_its_own(server: ModelServer, reply: Reply):
    exc = failure(server, reply)
    assert isinstance(exc, ModelResponseError)
    assert exc.retryable is True


def test_an_empty_answer_that_was_cut_says_which_setting_to_raise(server: ModelServer):
    exc = failure(server, chat_completion(None, reason="length"), max_tokens=12)
    assert "spent max_tokens = 12 without an answer; raise max_tokens" in str(exc)


def test_a_filtered_answer_is_a_permanent_refusal(server: ModelServer):
    exc = failure(server, chat_completion(None, reason="content_filter"))
    assert isinstance(exc, ModelRefusedError)
    assert exc.retryable is False


def test_a_parameter_that_a_model_refuses_is_left_out_from_then_on(server: ModelServer):
    script = [
        openai_error(400, "Use 'max_completion_tokens' instead.", param="max_tokens", code="unsupported_parameter"),
        openai_error(400, "Unsupported value: 'temperature' does not support 0.5 with this model."),
        openai_error(422, "response_format: extra fields not permitted"),
        chat_completion("done"),
    ]
    one = provider(server)
    server.script = script
    request = CompletionRequest.of(PROMPT, model="m", temperature=0.5, max_tokens=9, output_schema={})
    assert asyncio.run(one.chat(request)).text == "done"
    assert asyncio.run(one.chat(request)).text == "done"
    assert len(server.received) == 5
    last = server.received[-1].json
    assert last["max_completion_tokens"] == 9
    assert not {"max_tokens", "temperature", "response_format"} & set(last)


def test_a_parameter_refused_again_ends_in_the_error(server: ModelServer):
    exc = failure(server, openai_error(400, "no", param="temperature"), temperature=1)
    assert isinstance(exc, ModelRequestError)
    assert len(server.received) == 2


def test_the_deadline_covers_the_whole_answer(server: ModelServer):
    gate = threading.Event()
    try:
        exc = failure(server, Reply({}, gate=gate), timeout=0.2)
    finally:
        gate.set()
    assert isinstance(exc, ModelTimeoutError)
    assert isinstance(exc, TimeoutError)
    assert exc.retryable is True


def test_a_server_that_does_not_listen_is_named_and_retryable(server: ModelServer):
    silent = OpenAIProvider(api_key=KEY, base_url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(ModelUnavailableError, match=r"127\.0\.0\.1:9") as caught:
        asyncio.run(silent.complete(PROMPT))
    assert caught.value.retryable is True


def test_no_redirect_is_followed(server: ModelServer):
    exc = failure(server, Reply({}, 307, {"location": "http://127.0.0.1:9/elsewhere"}))
    assert "127.0.0.1:9" not in str(exc)
    assert len(server.received) == 1


def test_hundreds_of_calls_share_one_loop_and_no_thread_each(server: ModelServer):
    gate = threading.Event()
    server.script = [Reply(chat_completion("x").body, gate=gate)]
    one = provider(server, model="m")

    async def main() -> tuple[list[str], int]:
        before = set(threading.enumerate())
        calls = [asyncio.create_task(one.complete(PROMPT)) for _ in range(200)]
        await wait_until_async(lambda: len(server.received) == 200, "all calls to be under way")
        ours = [thread for thread in set(threading.enumerate()) - before if "process_request" not in thread.name]
        gate.set()
        return await asyncio.gather(*calls), len(ours)

    answers, threads = asyncio.run(main())
    assert answers == ["x"] * 200
    assert threads < 50


def test_one_provider_serves_one_loop_after_the_other_and_leaves_no_connection(server: ModelServer):
    one = provider(server, model="m")
    server.script = [chat_completion("x")]

    async def twice() -> None:
        await asyncio.gather(one.complete(PROMPT), one.complete(PROMPT))
        await one.aclose()
        await one.complete(PROMPT)

    for _ in range(3):
        asyncio.run(twice())
    assert len(server.received) == 9


def test_the_client_serves_its_own_origin_only_bounds_the_answer_and_takes_no_compression(server: ModelServer):
    server.script = [Reply("x" * 5000), Reply({}, headers={"content-encoding": "gzip"})]

    async def post(url: str, **options: Any) -> Any:
        async with async_sdk_http_client(server.url, 5, **options) as client:
            return await client.post(url, json={})

    with pytest.raises(OutboundRefusedError, match="this client serves"):
        asyncio.run(post("http://127.0.0.1:9/"))
    with pytest.raises(ResponseTooLargeError):
        asyncio.run(post(f"{server.url}/", max_bytes=1000))
    with pytest.raises(LLMTeamError, match="compressed"):
        asyncio.run(post(f"{server.url}/"))
    with pytest.raises(OutboundRefusedError, match="own servers"):
        asyncio.run(post(f"{server.url}/", guard=OutboundGuard(refuse_always=[f"127.0.0.1:{server.port}"])))


def test_a_provider_needs_key_or_server_a_usable_url_and_a_model():
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        OpenAIProvider()
    with pytest.raises(ConfigurationError, match="base URL"):
        OpenAIProvider(base_url="ftp://models")
    with pytest.raises(ConfigurationError, match="seconds"):
        OpenAIProvider(api_key="k", timeout=0)
    with pytest.raises(ModelRequestError, match="no model is named"):
        asyncio.run(OpenAIProvider(api_key=KEY).complete(PROMPT))
    assert KEY not in repr(OpenAIProvider(api_key=KEY))


def test_a_missing_sdk_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelNotConfiguredError, match=r"pip install 'llmteam\[openai\]'"):
        asyncio.run(OpenAIProvider(api_key=KEY, model="m").complete(PROMPT))


def test_requests_and_answers_do_not_show_their_texts():
    request = CompletionRequest.of(PROMPT, system_prompt=PROMPT)
    assert PROMPT not in repr(request)
    assert PROMPT not in repr(Completion(PROMPT))
    assert Usage(1, 2) + Usage(3, 4) == Usage(4, 6)
