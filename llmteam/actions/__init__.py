"""External actions: webhooks, APIs, functions, statements and messages, with one way out, limits and a record of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.actions.exceptions import (
    ActionDataError,
    ActionDeniedError,
    ActionError,
    ActionFailedError,
    ActionNotFoundError,
    InvalidActionError,
)
from llmteam.actions.executor import ActionExecutor
from llmteam.actions.handlers import (
    ActionHandler,
    DatabaseActionHandler,
    FunctionActionHandler,
    MessageQueueActionHandler,
    RestActionHandler,
    WebhookActionHandler,
)
from llmteam.actions.models import ActionConfig, ActionContext, ActionResult, ActionStatus, ActionType
from llmteam.actions.registry import ActionRegistry, default_registry, register
from llmteam.actions.stores import AttemptStore, MemoryAttemptStore

if TYPE_CHECKING:
    from llmteam.actions.handlers.postgres import SqlEngine
    from llmteam.actions.postgres import PostgresAttemptStore

__all__ = [
    "ActionConfig",
    "ActionContext",
    "ActionDataError",
    "ActionDeniedError",
    "ActionError",
    "ActionExecutor",
    "ActionFailedError",
    "ActionHandler",
    "ActionNotFoundError",
    "ActionRegistry",
    "ActionResult",
    "ActionStatus",
    "ActionType",
    "AttemptStore",
    "DatabaseActionHandler",
    "FunctionActionHandler",
    "InvalidActionError",
    "MemoryAttemptStore",
    "MessageQueueActionHandler",
    "PostgresAttemptStore",
    "RestActionHandler",
    "SqlEngine",
    "WebhookActionHandler",
    "default_registry",
    "register",
]

_LAZY = {
    "PostgresAttemptStore": "llmteam.actions.postgres",
    "SqlEngine": "llmteam.actions.handlers.postgres",
}


def __getattr__(name: str) -> Any:
    # On first use only: they bring SQLAlchemy.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
