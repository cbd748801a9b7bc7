from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmteam.canvas.exceptions import InvalidStepConfigError
from llmteam.canvas.handlers.ai import LLMAgentHandler
from llmteam.canvas.handlers.answers import OutputSchemaError
from llmteam.canvas.handlers.prompts import PromptError
from llmteam.canvas.ports import Ports
from llmteam.net import RequestCancelledError
from llmteam.runtime import (
    Completion,
    CompletionRequest,
    ModelNotConfiguredError,
    ModelResponseError,
    ModelTimeoutError,
    ResourceAccessDeniedError,
    ResourceNotFoundError,
    RuntimeContextError,
    RuntimeContextManager,
    StepContext,
    Usage,
)
from llmteam.runtime.providers.builtin import builtin_models
from tests.unit.runtime.test_resources import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCORE = {"type": "object", "properties": {"score": {"type": "integer", "maximum": 10}}, "required": ["score"]}


class Scripted:
    """A chat provider that keeps what it was asked."""

    def __init__(self, *answers: Completion | str | Exception, model: str | None = None) -> None:
        self.answers = list(answers) or ["fine"]
        self.asked: list[CompletionRequest] = []
        if model:
            self.model = model

    async def complete(self, prompt: str, **kwargs: Any) -> str:
        raise AssertionError("chat is preferred")

    async def chat(self, request: CompletionRequest) -> Completion:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Completion) else Completion(answer, Usage(2, 3), "m-1", "stop")


class Simple:
    """A provider as the protocol asks for it, no more."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers) or ["simple"]
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def complete(self, prompt: str, **kwargs: Any) -> str:
        self.asked.append((prompt, kwargs))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def context(execution: dict[str, Any] | None = None, **llms: Any) -> StepContext:
    manager = RuntimeContextManager()
    for name, provider in llms.items():
        manager.register_llm(name.replace("_", "-"), provider)
    manager.register_store("prompts", PROMPTS)
    return manager.create_runtime("acme", "w1").child_context("ask", **execution or {})


PROMPTS = MemoryStore()
PROMPTS.values["greeting"] = "Greet {name}."


def run(ctx: StepContext, config: dict[str, Any], document: Any = "hello") -> Any:
    answer = asyncio.run(LLMAgentHandler(lambda: NOW)(ctx, config, {"input": document}))
    assert isinstance(answer, Ports)
    assert list(answer) == ["output"]
    return answer["output"]


def prompt_for(config: dict[str, Any], document: Any) -> str:
    provider = Scripted()
    run(context(default=provider), {"model": "m", **config}, document)
    return provider.asked[0].messages[0].content


def test_the_answer_leaves_by_port_output_and_its_tokens_are_annotated():
    ctx = context(default=Scripted("Paris"))
    assert run(ctx, {"model": "m"}) == "Paris"
    assert ctx.annotations == {
        "usage": {"input_tokens": 2, "output_tokens": 3, "model": "m-1", "calls": 1},
        "finish_reason": "stop",
    }


def test_the_model_is_told_what_the_configuration_says_and_defaults_for_the_rest():
    provider = Scripted()
    run(context(default=provider), {"model": "m", "system_prompt": "be brief", "temperature": 0, "max_tokens": 5}, "hi")
    asked = provider.asked[0]
    assert (asked.model, asked.system_prompt, asked.temperature, asked.max_tokens) == ("m", "be brief", 0, 5)
    run(context(default=provider), {"model": "m"}, "hi")
    assert (provider.asked[1].temperature, provider.asked[1].max_tokens) == (0.7, 1000)


def test_llm_ref_names_the_provider_and_model_is_passed_on():
    named, default = Scripted("named"), Scripted("default")
    ctx = context(fast=named, default=default)
    assert run(ctx, {"llm_ref": "fast", "model": "gpt-4"}) == "named"
    assert run(ctx, {"llm_ref": "fast"}) == "named"
    assert [request.model for request in named.asked] == ["gpt-4", None]


def test_without_llm_ref_a_provider_named_like_the_model_is_taken_before_the_default():
    named, own, default = Scripted("named"), Scripted("own", model="gpt-4-0613"), Scripted("default")
    ctx = context(gpt_4=named, gpt_5=own, default=default)
    assert run(ctx, {"model": "gpt-4"}) == "named"
    assert run(ctx, {"model": "gpt-5"}) == "own"
    assert run(ctx, {"model": "other"}) == "default"
    assert (named.asked[0].model, own.asked[0].model, default.asked[0].model) == ("gpt-4", "gpt-4-0613", "other")


def test_an_llm_ref_that_nobody_registered_is_an_error_although_there_is_a_default():
    with pytest.raises(ResourceNotFoundError, match="LLM provider 'fast' not found: registered: 'default'"):
        run(context(default=Scripted()), {"llm_ref": "fast", "model": "gpt-4"})


def test_a_provider_of_other_tenants_is_refused():
    ctx = context()
    ctx.runtime.llms.register("fast", Scripted(), tenants=["globex"])
    with pytest.raises(ResourceAccessDeniedError):
        run(ctx, {"llm_ref": "fast"})


def test_without_any_model_the_error_names_what_to_set_and_offline_is_not_taken_by_itself():
    with pytest.raises(ModelNotConfiguredError, match="registered as 'gpt-4' or 'default'") as caught:
        run(context(), {"model": "gpt-4"})
    for remedy in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "register_llm", "'offline'"):
        assert remedy in str(caught.value)
    assert caught.value.retryable is False


@pytest.mark.parametrize("config", [{"llm_ref": "offline"}, {"model": "offline"}, {"llm_ref": "offline", "model": "x"}])
def test_offline_is_there_by_name_in_every_runtime(config: dict[str, Any]):
    ctx = context()
    assert run(ctx, config, "hello").startswith("[offline stand-in, no model]")
    assert ctx.annotations["usage"] == {"input_tokens": 0, "output_tokens": 0, "model": "offline", "calls": 1}


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        ({"OPENAI_API_KEY": "k"}, "OpenAIProvider"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "OpenAIProvider"),
        ({"ANTHROPIC_API_KEY": "k"}, "AnthropicProvider"),
        ({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"}, "OpenAIProvider"),
    ],
)
def test_the_environment_makes_a_default(env: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch):
    assert set(builtin_models()) == {"offline"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    models = builtin_models()
    assert type(models["default"]).__name__ == kind
    assert builtin_models()["default"] is models["default"]
    assert ("anthropic" in models, "openai" in models) == ("ANTHROPIC_API_KEY" in env, len(env) > 1 or kind[0] == "O")


def test_a_prompt_is_filled_from_the_document():
    document = {"name": "Ada", "n": 3, "lines": [{"amount": 1.5}], "first-name": "A", "input": "x"}
    assert prompt_for({"prompt": "Hi {name}, {n} {lines} {first-name}"}, document) == 'Hi Ada, 3 [{"amount":1.5}] A'
    assert prompt_for({"prompt": "{lines.0.amount} of {input}"}, document) == "1.5 of x"
    assert prompt_for({"prompt": "All: {data}"}, [1, 2]) == "All: [1,2]"
    assert prompt_for({"prompt": "{data.0}"}, [1, 2]) == "1"
    assert prompt_for({"prompt": 'Like {{"a": {n}}}'}, document) == 'Like {"a": 3}'
    assert prompt_for({"prompt": "no names"}, document) == "no names"


def test_what_goes_into_a_prompt_is_not_read_again():
    assert prompt_for({"prompt": "{a}"}, {"a": "{b} {{", "b": "leaked"}) == "{b} {{"


@pytest.mark.parametrize("template", ["{missing}", "{a.b}", "{a.__class__}", "{list.9}", "{list.append}"])
def test_a_name_that_the_document_lacks_is_a_permanent_error(template: str):
    with pytest.raises(PromptError, match="no such key") as caught:
        prompt_for({"prompt": template}, {"a": "secret text", "list": [1]})
    assert caught.value.retryable is False
    assert "secret text" not in str(caught.value)


@pytest.mark.parametrize(
    "template", ["{", "}", "{}", "{a", "a}", "{0}", "{a!r}", "{a:>9}", "{a[0]}", "{a.-1}", "{ a }", '{"a": 1}']
)
def test_braces_that_are_no_name_are_an_error_that_says_how_to_write_them(template: str):
    with pytest.raises(PromptError, match=r"write \{\{ and \}\}"):
        prompt_for({"prompt": template}, {"a": 1})


@pytest.mark.parametrize(
    ("document", "prompt"),
    [
        ("plain text", "plain text"),
        ({"prompt": "P", "query": "Q"}, "P"),
        ({"query": "Q", "input": "I", "text": "T"}, "Q"),
        ({"input": {"a": 1}, "text": "T"}, '{"a":1}'),
        ({"prompt": None, "text": "T"}, "T"),
        ({"other": [1, "ü"]}, '{"other":[1,"ü"]}'),
        ([1, 2], "[1,2]"),
        (None, "null"),
    ],
)
def test_without_a_prompt_the_document_asks_by_itself(document: Any, prompt: str):
    assert prompt_for({}, document) == prompt


def test_a_prompt_may_be_kept_in_a_store_of_the_runtime():
    assert prompt_for({"prompt_template_id": "greeting"}, {"name": "Ada"}) == "Greet Ada."
    with pytest.raises(ResourceNotFoundError, match="Prompt template 'other' not found: put its text into the store"):
        prompt_for({"prompt_template_id": "other"}, {})
    with pytest.raises(InvalidStepConfigError, match="exclude each other"):
        prompt_for({"prompt_template_id": "greeting", "prompt": "x"}, {})


@pytest.mark.parametrize(
    "answer",
    ['{"score": 7}', ' {"score": 7}\n', 'Sure!\n```json\n{"score": 7}\n```\nBye', 'The answer is {"score": 7}.'],
)
def test_with_a_schema_the_answer_is_handed_on_as_a_value(answer: str):
    provider = Scripted(answer)
    assert run(context(default=provider), {"model": "m", "output_schema": SCORE, "system_prompt": "Rate."}) == {
        "score": 7
    }
    asked = provider.asked[0]
    assert asked.output_schema == SCORE
    assert asked.system_prompt.startswith("Rate.\n\nAnswer with JSON only")
    assert '"maximum":10' in asked.system_prompt


def test_an_answer_that_does_not_fit_is_sent_back_once_with_the_reasons_and_all_tokens_count():
    provider = Scripted('{"score": 11}', '{"score": 10}')
    ctx = context(default=provider)
    assert run(ctx, {"model": "m", "output_schema": SCORE}, "rate") == {"score": 10}
    turns = provider.asked[1].messages
    assert [(turn.role, turn.content) for turn in turns[:2]] == [("user", "rate"), ("assistant", '{"score": 11}')]
    assert "$.score: 11 is greater than the maximum of 10" in turns[2].content
    assert ctx.annotations["usage"] == {"input_tokens": 4, "output_tokens": 6, "model": "m-1", "calls": 2}


@pytest.mark.parametrize("answer", ["no JSON at all", '{"score": "private"}', "[NaN]", "[" * 100_000, '{"score": 1}}'])
def test_a_second_answer_that_does_not_fit_is_a_retryable_error_that_quotes_nothing(answer: str):
    provider = Scripted(answer)
    ctx = context(default=provider)
    with pytest.raises(OutputSchemaError) as caught:
        run(ctx, {"model": "m", "output_schema": SCORE})
    assert caught.value.retryable is True
    assert "private" not in str(caught.value)
    assert len(provider.asked) == 2
    assert ctx.annotations["usage"]["calls"] == 2


def test_an_answer_that_was_cut_says_so():
    provider = Scripted(Completion('{"score": ', Usage(1, 1), "m", "length"))
    with pytest.raises(OutputSchemaError, match="it was cut at max_tokens = 9"):
        run(context(default=provider), {"model": "m", "output_schema": SCORE, "max_tokens": 9})


@pytest.mark.parametrize(
    "schema", [{"type": "nonsense"}, {"properties": 1}, {"$ref": "http://127.0.0.1:9/x.json"}, {"$ref": "#"}]
)
def test_a_schema_that_is_none_is_a_permanent_error_and_never_fetched(schema: dict[str, Any]):
    with pytest.raises(InvalidStepConfigError, match="output_schema") as caught:
        run(context(default=Scripted("1")), {"model": "m", "output_schema": schema})
    assert caught.value.retryable is False


def test_offline_fits_the_schema():
    value = run(context(), {"llm_ref": "offline", "output_schema": SCORE})
    assert 0 <= value["score"] <= 10


def test_a_provider_that_only_completes_gets_what_was_set_and_reports_no_tokens():
    provider = Simple()
    ctx = context(default=provider)
    assert run(ctx, {"model": "m", "system_prompt": "s"}, "hi") == "simple"
    assert provider.asked == [("hi", {"model": "m", "system_prompt": "s", "temperature": 0.7, "max_tokens": 1000})]
    assert ctx.annotations == {}
    repairing = Simple("{}", '{"score": 1}')
    assert run(context(default=repairing), {"model": "m", "output_schema": SCORE}, "hi") == {"score": 1}
    assert repairing.asked[1][0].startswith("hi\n\n{}\n\nThis answer cannot be used")


def test_an_answer_that_is_no_text_and_an_object_that_is_no_provider_are_errors():
    class Wrong:
        async def complete(self, prompt: str, **kwargs: Any) -> Any:
            return {"text": "x"}

    with pytest.raises(ModelResponseError, match="Wrong answered with something that is no text"):
        run(context(default=Wrong()), {"model": "m"})
    with pytest.raises(RuntimeContextError, match="neither chat\\(\\) nor complete\\(\\)"):
        run(context(default=object()), {"model": "m"})


def test_a_failure_of_the_provider_is_raised_as_it_is():
    failure = ModelResponseError("broken", retry_after=3)
    with pytest.raises(ModelResponseError) as caught:
        run(context(default=Scripted(failure)), {"model": "m"})
    assert caught.value is failure


class Hanging:
    def __init__(self) -> None:
        self.cancelled = False

    async def complete(self, prompt: str, **kwargs: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError


def test_the_steps_deadline_ends_the_call():
    provider, chatty = Hanging(), Scripted()
    soon = {"deadline": NOW + timedelta(seconds=0.05)}
    with pytest.raises(ModelTimeoutError, match="before the step's deadline"):
        run(context(soon, default=provider), {"model": "m"})
    assert provider.cancelled
    run(context({"deadline": NOW + timedelta(seconds=60)}, default=chatty), {"model": "m"})
    assert chatty.asked[0].timeout == 60
    with pytest.raises(ModelTimeoutError, match="has passed"):
        run(context({"deadline": NOW}, default=chatty), {"model": "m"})
    assert len(chatty.asked) == 1


def test_a_cancelled_step_stops_waiting_for_its_model():
    provider, cancelled = Hanging(), threading.Event()
    ctx = context({"cancelled": cancelled}, default=provider)

    async def main() -> None:
        call = asyncio.create_task(LLMAgentHandler()(ctx, {"model": "m"}, "hi"))
        await asyncio.sleep(0)
        cancelled.set()
        await call

    with pytest.raises(RequestCancelledError):
        asyncio.run(main())
