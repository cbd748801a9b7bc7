"""People in the loop: requests, answers, escalation, chat.

A request is a row. Whoever waits for its answer, a step of a run or a caller, holds no worker meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.human.exceptions import (
    AccessTokenError,
    AnswerLinkError,
    InteractionChangedError,
    InteractionClosedError,
    InteractionError,
    InteractionNotFoundError,
    InvalidRequestError,
    InvalidResponseError,
    ResponderNotAllowedError,
    ResponseTooLargeError,
)
from llmteam.human.manager import HumanInteractionManager
from llmteam.human.models import (
    InteractionMessage,
    InteractionPriority,
    InteractionRequest,
    InteractionResponse,
    InteractionStatus,
    InteractionType,
    NotificationConfig,
)
from llmteam.human.notifications.channels import NotificationChannel
from llmteam.human.stores import InteractionStore, MemoryInteractionStore

if TYPE_CHECKING:
    from llmteam.human.postgres import PostgresInteractionStore

__all__ = [
    "AccessTokenError",
    "AnswerLinkError",
    "HumanInteractionManager",
    "InteractionChangedError",
    "InteractionClosedError",
    "InteractionError",
    "InteractionMessage",
    "InteractionNotFoundError",
    "InteractionPriority",
    "InteractionRequest",
    "InteractionResponse",
    "InteractionStatus",
    "InteractionStore",
    "InteractionType",
    "InvalidRequestError",
    "InvalidResponseError",
    "MemoryInteractionStore",
    "NotificationChannel",
    "NotificationConfig",
    "PostgresInteractionStore",
    "ResponderNotAllowedError",
    "ResponseTooLargeError",
]


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresInteractionStore":
        from llmteam.human.postgres import PostgresInteractionStore

        return PostgresInteractionStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
