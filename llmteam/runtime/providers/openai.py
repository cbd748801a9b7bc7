"""Language models behind the OpenAI chat API: OpenAI's own, vLLM, Ollama and gateways by base URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.errors import ConfigurationError
from llmteam.runtime.exceptions import ModelRefusedError, ModelResponseError
from llmteam.runtime.models import Completion, CompletionRequest, Usage
from llmteam.runtime.providers.chat import ANSWER_SECONDS, SDKProvider

if TYPE_CHECKING:
    from openai import AsyncOpenAI

OPENAI_URL = "https://api.openai.com/v1"


class OpenAIProvider(SDKProvider["AsyncOpenAI"]):
    """Chat completions. ``model`` is used when a request names none; ``timeout`` is in seconds per answer.

    Without ``base_url`` it is OpenAI's, which needs a key; many servers of one's own need none. The exact host and
    port of ``base_url`` are trusted by the outbound guard, for this provider only.

    Raises:
        ConfigurationError: no key for OpenAI itself, a base URL that is none, or a timeout that is none.
    """

    name = "OpenAI API"
    sdk = "openai"
    sdk_parts = ("openai.types.chat",)
    optional = ("max_tokens", "temperature", "response_format")

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        model: str | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> None:
        if not api_key and not base_url:
            raise ConfigurationError("OpenAI needs a key: set OPENAI_API_KEY, or OPENAI_BASE_URL for another server")
        super().__init__(base_url or OPENAI_URL, model, timeout)
        self._api_key = str(api_key or "")

    def __repr__(self) -> str:
        return f"OpenAIProvider(model={self.model!r})"

    def _make_client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        from llmteam.net.sdk_async import async_sdk_http_client

        return AsyncOpenAI(
            api_key=self._api_key or "none",  # the SDK insists on one; servers without keys ignore it
            base_url=self._base_url,
            max_retries=0,
            timeout=self._timeout,
            http_client=async_sdk_http_client(self._base_url, self._timeout),
        )

    async def _send(
        self, client: AsyncOpenAI, model: str, request: CompletionRequest, refused: frozenset[str]
    ) -> Completion:
        from openai.types.chat import ChatCompletion

        answer: object = await client.chat.completions.create(**_arguments(model, request, refused))
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise ModelResponseError(
                f"{self.name}: the answer for model '{model}' is no chat completion; does the base URL lead to the API?"
            )
        choice = answer.choices[0]
        text = choice.message.content if choice.message is not None else None
        if choice.finish_reason == "content_filter" or (not text and getattr(choice.message, "refusal", None)):
            raise ModelRefusedError(f"{self.name}: model '{model}' or its filter declined to answer")
        if not text:
            raise ModelResponseError(_empty(self.name, model, choice.finish_reason, request.max_tokens))
        used = answer.usage
        usage = None if used is None else Usage(used.prompt_tokens or 0, used.completion_tokens or 0)
        return Completion(text, usage, answer.model or model, choice.finish_reason)


def _arguments(model: str, request: CompletionRequest, refused: frozenset[str]) -> dict[str, Any]:
    system = [{"role": "system", "content": request.system_prompt}] if request.system_prompt else []
    turns = [{"role": turn.role, "content": turn.content} for turn in request.messages]
    arguments: dict[str, Any] = {"model": model, "messages": [*system, *turns]}
    if request.temperature is not None and "temperature" not in refused:
        arguments["temperature"] = request.temperature
    if request.max_tokens is not None:
        # Newer models of OpenAI refuse the old name, and most other servers know only that.
        arguments["max_completion_tokens" if "max_tokens" in refused else "max_tokens"] = request.max_tokens
    if request.output_schema is not None and "response_format" not in refused:
        schema = {"name": "answer", "schema": dict(request.output_schema)}
        arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
    return arguments


def _empty(provider: str, model: str, reason: str | None, max_tokens: int | None) -> str:
    if reason == "length":
        return f"{provider}: model '{model}' spent max_tokens = {max_tokens} without an answer; raise max_tokens"
    return f"{provider}: model '{model}' answered without text (finish_reason {str(reason)[:40]!r})"
