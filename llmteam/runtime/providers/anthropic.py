"""Language models behind Anthropic's messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmteam.errors import ConfigurationError
from llmteam.runtime.exceptions import ModelRefusedError, ModelResponseError
from llmteam.runtime.models import Completion, CompletionRequest, Usage
from llmteam.runtime.providers.chat import ANSWER_SECONDS, SDKProvider

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

ANTHROPIC_URL = "https://api.anthropic.com"
#: The API wants a limit; this one holds where the request has none.
MAX_TOKENS = 1000

_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}


class AnthropicProvider(SDKProvider["AsyncAnthropic"]):
    """Messages. ``model`` is used when a request names none; ``timeout`` is in seconds per answer.

    The exact host and port of ``base_url`` are trusted by the outbound guard, for this provider only.

    Raises:
        ConfigurationError: no key, a base URL that is none, or a timeout that is none.
    """

    name = "Anthropic API"
    sdk = "anthropic"
    sdk_parts = ("anthropic.types",)
    optional = ("output_config", "temperature")

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = ANTHROPIC_URL,
        model: str | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> None:
        if not api_key:
            raise ConfigurationError("Anthropic needs a key: set ANTHROPIC_API_KEY")
        super().__init__(base_url, model, timeout)
        self._api_key = str(api_key)

    def __repr__(self) -> str:
        return f"AnthropicProvider(model={self.model!r})"

    def _make_client(self) -> AsyncAnthropic:
        from anthropic import AsyncAnthropic

        from llmteam.net.sdk_async import async_sdk_http_client

        return AsyncAnthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=0,
            timeout=self._timeout,
            http_client=async_sdk_http_client(self._base_url, self._timeout),
        )

    async def _send(
        self, client: AsyncAnthropic, model: str, request: CompletionRequest, refused: frozenset[str]
    ) -> Completion:
        from anthropic.types import Message

        answer: object = await client.messages.create(**_arguments(model, request, refused))
        if not isinstance(answer, Message) or not isinstance(answer.content, list):
            raise ModelResponseError(
                f"{self.name}: the answer for model '{model}' is no message; does the base URL lead to the API?"
            )
        if answer.stop_reason == "refusal":
            raise ModelRefusedError(f"{self.name}: model '{model}' declined to answer")
        text = "".join(block.text for block in answer.content if block.type == "text")
        if not text:
            reason = str(answer.stop_reason)[:40]
            raise ModelResponseError(f"{self.name}: model '{model}' answered without text (stop_reason {reason!r})")
        reason = answer.stop_reason or ""
        return Completion(text, _usage(answer.usage), answer.model or model, _REASONS.get(reason, reason) or None)


def _usage(usage: Any) -> Usage | None:
    """Tokens, those included that were read from or written to the provider's cache; None when it tells none."""
    if usage is None:
        return None
    read = (usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens)
    return Usage(sum(part or 0 for part in read), usage.output_tokens or 0)


def _arguments(model: str, request: CompletionRequest, refused: frozenset[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens or MAX_TOKENS,
        "messages": [{"role": turn.role, "content": turn.content} for turn in request.messages],
    }
    if request.system_prompt:
        arguments["system"] = request.system_prompt
    if request.temperature is not None and "temperature" not in refused:
        # The SDK has no name for it any more, since new models refuse it; the range of this API ends at 1.
        arguments["extra_body"] = {"temperature": min(request.temperature, 1.0)}
    if request.output_schema is not None and "output_config" not in refused:
        arguments |= _output_config(request.output_schema)
    return arguments


def _output_config(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The API's form of ``schema``, nothing when it has none."""
    from anthropic import transform_schema

    try:
        return {"output_config": {"format": {"type": "json_schema", "schema": transform_schema(dict(schema))}}}
    except (ValueError, TypeError, AttributeError):
        return {}
