"""Actions that are functions: coroutines on the loop, plain ones in a thread."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from llmteam.actions.exceptions import InvalidActionError
from llmteam.actions.handlers.base import BuiltinHandler, in_thread
from llmteam.actions.models import ActionConfig, ActionContext, ActionResult, ActionStatus


class FunctionActionHandler(BuiltinHandler):
    """Calls ``func(input_data, pipeline_state)``; its return value is the answer.

    A plain function cannot be stopped: when its time is over, its thread goes on and what it returns is dropped.
    """

    def __init__(self, config: ActionConfig, func: Callable[..., Any]) -> None:
        super().__init__(config)
        self.func = func

    async def execute(self, context: ActionContext) -> ActionResult:
        """Call the function once. Raises what it raises."""
        args = (context.input_data, context.pipeline_state)
        if inspect.iscoroutinefunction(self.func) or inspect.iscoroutinefunction(type(self.func).__call__):
            answer = await self.func(*args)
        else:
            answer = await in_thread(self.func, *args)
            if inspect.isawaitable(answer):
                answer = await answer
        if isinstance(answer, ActionResult):
            return answer
        return ActionResult(context.action_name, ActionStatus.COMPLETED, response_data=answer)


def imported(config: ActionConfig) -> Callable[..., Any]:
    """The function that the endpoint ``module:function`` names. Raises :class:`InvalidActionError`."""
    module, colon, name = (config.endpoint or "").partition(":")
    if not (module and colon and name):
        raise InvalidActionError(
            config.action_id, "a FUNCTION action needs a handler, or an endpoint like module:function"
        )
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        raise InvalidActionError(
            config.action_id, f"'{config.endpoint}' cannot be imported: {type(exc).__name__}"
        ) from None
    if not callable(found):
        raise InvalidActionError(config.action_id, f"'{config.endpoint}' is no function")
    function: Callable[..., Any] = found
    return function


def is_closure(func: Callable[..., Any]) -> bool:
    """Whether only this process can know the function: a lambda, or one that is defined inside another."""
    name = getattr(func, "__qualname__", type(func).__qualname__)
    return "<locals>" in name or "<lambda>" in name
