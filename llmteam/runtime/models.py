"""What is asked of a language model and what comes back, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written."""

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One question to a model. None leaves a choice to the provider; ``timeout`` is in seconds."""

    messages: tuple[ChatMessage, ...]
    system_prompt: str | None = field(default=None, repr=False)
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    output_schema: Mapping[str, Any] | None = None
    timeout: float | None = None

    @classmethod
    def of(cls, prompt: str, **choices: Any) -> CompletionRequest:
        """A request with one user turn; ``choices`` are this class's other fields."""
        return cls((ChatMessage("user", prompt),), **choices)


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer. ``finish_reason`` is "stop", "length" or the provider's own word."""

    text: str = field(repr=False)
    usage: Usage | None = None
    model: str | None = None
    finish_reason: str | None = None


@runtime_checkable
class ChatProvider(Protocol):
    """A language model that takes whole conversations and reports its tokens."""

    async def chat(self, request: CompletionRequest) -> Completion: ...
