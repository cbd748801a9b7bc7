"""Which actions there are, and what takes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Unpack

from llmteam.actions.exceptions import InvalidActionError
from llmteam.actions.handlers import (
    ActionHandler,
    FunctionActionHandler,
    RestActionHandler,
    WebhookActionHandler,
)
from llmteam.actions.handlers.function import imported, is_closure
from llmteam.actions.models import ActionConfig, ActionFields, ActionType
from llmteam.actions.schemas import schema_fault

_NO_HANDLER = {
    ActionType.DATABASE: "give a DatabaseActionHandler",
    ActionType.MESSAGE_QUEUE: "give a MessageQueueActionHandler",
    ActionType.GRPC: "gRPC is not built in: give a handler of your own, or call the service by its REST gateway",
}


class ActionRegistry:
    """Actions with their handlers, by id; for many threads.

    With ``distributed=True`` every process that takes actions has to be able to know their functions: lambdas, and
    functions that are defined inside others, are refused.
    """

    def __init__(self, *, distributed: bool = False) -> None:
        self._distributed = distributed
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[ActionConfig, ActionHandler]] = {}

    def register(self, config: ActionConfig, handler: ActionHandler | None = None) -> None:
        """Keep an action; the last registration of an id wins.

        Without ``handler``, WEBHOOK and REST_API get the HTTP one and FUNCTION the one of its endpoint. Raises
        :class:`InvalidActionError`, which is a ``ValueError``.
        """
        for name, schema in (("request_schema", config.request_schema), ("response_schema", config.response_schema)):
            if schema is not None and (fault := schema_fault(schema)):
                raise InvalidActionError(config.action_id, f"{name}: {fault}")
        made = handler if handler is not None else _handler_of(config)
        if self._distributed and isinstance(made, FunctionActionHandler) and is_closure(made.func):
            raise InvalidActionError(
                config.action_id,
                "its function is known to this process only: define it at the top of a module that workers import "
                "(llmteam worker --import yourapp.actions), or use an ActionRegistry of your own in this process",
            )
        with self._lock:
            self._entries[config.action_id] = (config, made)

    def register_webhook(self, name: str, url: str, method: str = "POST", **fields: Unpack[ActionFields]) -> None:
        """Keep a WEBHOOK; ``fields`` are those of :class:`ActionConfig`."""
        self.register(ActionConfig(name, ActionType.WEBHOOK, url, method, **fields))

    def register_function(self, name: str, func: Callable[..., Any], **fields: Unpack[ActionFields]) -> None:
        """Keep a FUNCTION, called as ``func(input_data, pipeline_state)``."""
        config = ActionConfig(name, ActionType.FUNCTION, **fields)
        self.register(config, FunctionActionHandler(config, func))

    def unregister(self, name: str) -> None:
        """Forget an action; an unknown one is ignored."""
        with self._lock:
            self._entries.pop(name, None)

    def find(self, name: str) -> tuple[ActionConfig, ActionHandler] | None:
        """Configuration and handler of one registration."""
        with self._lock:
            return self._entries.get(name)

    def get_handler(self, name: str) -> ActionHandler | None:
        entry = self.find(name)
        return None if entry is None else entry[1]

    def get_config(self, name: str) -> ActionConfig | None:
        entry = self.find(name)
        return None if entry is None else entry[0]

    def has_action(self, name: str) -> bool:
        return self.find(name) is not None

    def list_actions(self) -> list[str]:
        """The ids, in the order of their registration."""
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """Forget all actions."""
        with self._lock:
            self._entries.clear()


def _handler_of(config: ActionConfig) -> ActionHandler:
    match config.action_type:
        case ActionType.WEBHOOK:
            return WebhookActionHandler(config)
        case ActionType.REST_API:
            return RestActionHandler(config)
        case ActionType.FUNCTION:
            return FunctionActionHandler(config, imported(config))
    raise InvalidActionError(
        config.action_id,
        f"an action of type {config.action_type.name} needs a handler: {_NO_HANDLER[config.action_type]}",
    )


#: The registry of this process, in which modules that workers import register.
default_registry = ActionRegistry(distributed=True)


def register(config: ActionConfig, handler: ActionHandler | None = None) -> None:
    """As :meth:`ActionRegistry.register`, in this process's own registry: for steps of the type ``action``."""
    default_registry.register(config, handler)
