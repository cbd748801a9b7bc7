"""``llm_agent``: asks a language model of the runtime and hands on its answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from llmteam import metrics, tracing
from llmteam.canvas.exceptions import InvalidStepConfigError
from llmteam.canvas.handlers.answers import AnswerFault, OutputSchema, OutputSchemaError
from llmteam.canvas.handlers.document import document as document_of
from llmteam.canvas.handlers.prompts import fill, prompt_of
from llmteam.canvas.ports import Ports
from llmteam.ids import Clock, utc_now
from llmteam.net import RequestCancelledError
from llmteam.runtime.context import StepContext
from llmteam.runtime.exceptions import (
    ModelNotConfiguredError,
    ModelResponseError,
    ModelTimeoutError,
    ResourceNotFoundError,
    RuntimeContextError,
)
from llmteam.runtime.models import ChatMessage, Completion, CompletionRequest, Usage
from llmteam.runtime.providers.builtin import DEFAULT, HOW_TO_CONFIGURE, builtin_models
from llmteam.runtime.resources import LLMProvider

T = TypeVar("T")

#: Where ``prompt_template_id`` is looked up: a store of the runtime.
TEMPLATE_STORE = "prompts"

TEMPERATURE = 0.7
MAX_TOKENS = 1000

#: How often a waiting call looks whether its step was cancelled, in seconds.
_LOOK = 0.5


class LLMAgentHandler:
    """Asks the model that the configuration names.

    The provider is the runtime's ``llm_ref``, else the one named like ``model``, else ``default`` with the model passed
    on. The prompt is ``prompt`` (or the template ``prompt_template_id`` of the store "prompts") filled from the
    document, else what the document asks by itself. With ``output_schema`` the answer is handed on as a value that fits
    it; a first answer that does not is sent back once with the reasons. Tokens of both are annotated as ``usage``.

    Raises:
        ModelError: no model, no answer, or no usable one.
        OutputSchemaError: the second answer does not fit ``output_schema`` either.
        PromptError: the document lacks what the prompt names.
        InvalidStepConfigError: the configuration contradicts itself, or ``output_schema`` is no schema.
    """

    def __init__(self, clock: Clock = utc_now) -> None:
        self._clock = clock

    async def __call__(self, ctx: StepContext, config: dict[str, Any], input_data: Any, /) -> Ports:
        """The answer on port ``output``."""
        raw = config.get("output_schema")
        schema = None if raw is None else OutputSchema(raw)
        model = chosen_model(ctx, config)
        system = "\n\n".join(part for part in (config.get("system_prompt"), schema and schema.instruction) if part)
        request = CompletionRequest(
            (ChatMessage("user", await _prompt(ctx, config, document_of(ctx, input_data))),),
            system_prompt=system or None,
            model=model.model,
            temperature=config.get("temperature", TEMPERATURE),
            max_tokens=config.get("max_tokens", MAX_TOKENS),
            output_schema=raw,
        )
        conversation = _Conversation(ctx, model.provider, self._clock)
        answer = await conversation.ask(request)
        if schema is None:
            return Ports({"output": answer.text})
        read = schema.read(answer.text)
        if isinstance(read, AnswerFault):
            turns = (ChatMessage("assistant", answer.text), ChatMessage("user", read.repair_instruction))
            answer = await conversation.ask(replace(request, messages=(*request.messages, *turns)))
            read = schema.read(answer.text)
        if isinstance(read, AnswerFault):
            cut = f"; it was cut at max_tokens = {request.max_tokens}" if answer.finish_reason == "length" else ""
            raise OutputSchemaError(f"{read.shown}{cut}")
        return Ports({"output": read})


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """Whom to ask, and which model of theirs; None leaves that to the provider."""

    provider: LLMProvider
    model: str | None


def chosen_model(ctx: StepContext, config: Mapping[str, Any]) -> ChosenModel:
    """The provider that a configuration means.

    Raises :class:`ResourceNotFoundError` for an unknown ``llm_ref``, :class:`ModelNotConfiguredError` when nobody
    answers for ``model``.
    """
    ref, model = config.get("llm_ref"), config.get("model")
    if ref:
        return ChosenModel(_named(ctx, ref) or ctx.get_llm(ref), model)
    if model and (provider := _named(ctx, model)) is not None:
        return ChosenModel(provider, getattr(provider, "model", None) or model)
    if (provider := _named(ctx, DEFAULT)) is not None:
        return ChosenModel(provider, model)
    wanted = f"'{str(model)[:100]}' or '{DEFAULT}'" if model else f"'{DEFAULT}'"
    raise ModelNotConfiguredError(f"No language model is registered as {wanted}: {HOW_TO_CONFIGURE}")


def _named(ctx: StepContext, name: str) -> LLMProvider | None:
    """The runtime's provider of this name, else the built-in one."""
    return ctx.get_llm(name) if ctx.runtime.llms.has(name) else builtin_models().get(name)


async def _prompt(ctx: StepContext, config: Mapping[str, Any], document: Any) -> str:
    template, template_id = config.get("prompt"), config.get("prompt_template_id")
    if template_id is None:
        return prompt_of(document) if template is None else fill(template, document)
    if template is not None:
        raise InvalidStepConfigError("llm_agent", ["prompt and prompt_template_id exclude each other: keep one"])
    try:
        found = await ctx.get_store(TEMPLATE_STORE).get(template_id)
    except KeyError:
        found = None
    if not isinstance(found, str):
        fix = f"put its text into the store '{TEMPLATE_STORE}' under this key"
        raise ResourceNotFoundError("Prompt template", template_id, fix=fix)
    return fill(found, document)


class _Conversation:
    """Asks one provider within the step's deadline and adds up the tokens, of answers that were of no use as well."""

    def __init__(self, ctx: StepContext, provider: LLMProvider, clock: Clock) -> None:
        self._ctx = ctx
        self._provider = provider
        self._clock = clock
        self._usage = Usage()
        self._calls = 0

    async def ask(self, request: CompletionRequest) -> Completion:
        """One answer. Raises :class:`ModelError`."""
        left = self._seconds_left()
        bound = asyncio.timeout(left)
        model = request.model or getattr(self._provider, "model", None)
        about = _asked(self._provider, model, request)
        with metrics.asking(model) as asking, tracing.call(f"chat {model}" if model else "chat", about) as call:
            try:
                async with bound:
                    answer = await _unless_cancelled(self._ctx, self._send(replace(request, timeout=left)))
            except TimeoutError:
                if not bound.expired():
                    raise
                raise ModelTimeoutError("The model did not answer before the step's deadline") from None
            asking.answered(answer.model, answer.usage)
            _tell_answer(call, answer)
        self._account(answer)
        return answer

    def _seconds_left(self) -> float | None:
        if self._ctx.deadline is None:
            return None
        left = (self._ctx.deadline - self._clock()).total_seconds()
        if left <= 0:
            raise ModelTimeoutError("The step's deadline has passed before the model was asked")
        return left

    async def _send(self, request: CompletionRequest) -> Completion:
        chat = getattr(self._provider, "chat", None)
        answer = await _value(chat(request)) if callable(chat) else await self._complete(request)
        if not isinstance(answer, Completion) or not isinstance(answer.text, str):
            raise ModelResponseError(f"{type(self._provider).__name__} answered with something that is no text")
        return answer

    async def _complete(self, request: CompletionRequest) -> object:
        """Ask a provider that takes one text: the turns one after the other, and only what was set."""
        complete = getattr(self._provider, "complete", None)
        if not callable(complete):
            raise RuntimeContextError(
                f"The language model is a {type(self._provider).__name__}, which has neither chat() nor complete(): "
                "register an LLMProvider"
            )
        choices = {name: getattr(request, name) for name in _CHOICES if getattr(request, name) is not None}
        text = await _value(complete("\n\n".join(turn.content for turn in request.messages), **choices))
        return Completion(text, None, request.model) if isinstance(text, str) else text

    def _account(self, answer: Completion) -> None:
        self._calls += 1
        if answer.finish_reason is not None:
            self._ctx.annotate("finish_reason", str(answer.finish_reason)[:100])
        if answer.usage is not None:
            self._usage += answer.usage
            self._ctx.annotate(
                "usage",
                {
                    "input_tokens": self._usage.input_tokens,
                    "output_tokens": self._usage.output_tokens,
                    "model": answer.model,
                    "calls": self._calls,
                },
            )


def _asked(provider: object, model: object, request: CompletionRequest) -> dict[str, str | int | float | None]:
    """What may be said of a question where others see it: by OpenTelemetry's conventions, and never its text."""
    name = getattr(provider, "name", None)
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": name if isinstance(name, str) else type(provider).__name__,
        "gen_ai.request.model": None if model is None else str(model),
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
    }


def _tell_answer(call: tracing.Call, answer: Completion) -> None:
    call.set("gen_ai.response.model", None if answer.model is None else str(answer.model))
    if answer.usage is not None:
        call.set("gen_ai.usage.input_tokens", answer.usage.input_tokens)
        call.set("gen_ai.usage.output_tokens", answer.usage.output_tokens)


#: What a provider's ``complete`` is told beside the prompt.
_CHOICES = ("model", "system_prompt", "temperature", "max_tokens", "output_schema")


async def _value(answer: object) -> object:
    return await answer if inspect.isawaitable(answer) else answer


async def _unless_cancelled(ctx: StepContext, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which ends early when the step is cancelled: nobody wants its answer then."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            if ctx.cancelled.is_set():
                raise RequestCancelledError
            await asyncio.wait({task}, timeout=_LOOK)
        return task.result()
    finally:
        task.cancel()
