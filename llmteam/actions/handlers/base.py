"""What a handler is, and what those that come with the package share."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmteam.actions.models import ActionConfig, ActionContext, ActionResult
from llmteam.masking import SecretValue
from llmteam.runtime.context import current_runtime, current_step
from llmteam.runtime.manager import default_manager

#: Plain functions and requests of actions that one process runs at once.
ACTION_THREADS = 64
_pools: dict[int, ThreadPoolExecutor] = {}


class ActionHandler(ABC):
    """Makes one attempt at an action. The executor repeats it, limits its time and writes down what came of it."""

    @abstractmethod
    async def execute(self, context: ActionContext) -> ActionResult:
        """Make an attempt. What it raises becomes a failed result with the error's name and text."""

    async def validate_request(self, context: ActionContext) -> bool:
        """Whether the payload fits, beside the action's schema; asked before the first attempt."""
        return True

    async def validate_response(self, result: ActionResult) -> bool:
        """Whether the answer fits, beside the action's schema; asked about completed attempts."""
        return True


class BuiltinHandler(ActionHandler):
    """A handler that goes by its action's configuration."""

    def __init__(self, config: ActionConfig) -> None:
        self.config = config

    def seconds(self, context: ActionContext) -> float:
        """How long this attempt may take."""
        return (context.timeout or self.config.timeout).total_seconds()


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """As ``asyncio.to_thread``, in threads of its own, so that a stuck action keeps nothing else from running."""
    pool = _pools.get(os.getpid())
    if pool is None:  # also after a fork, which threads do not survive
        pool = _pools[os.getpid()] = ThreadPoolExecutor(ACTION_THREADS, "llmteam-action")
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(context.run, function, *args))


async def read_secret(context: ActionContext, name: str) -> SecretValue:
    """A secret as the step, the run or, outside of runs, the tenant may read it. Audited where there is a trail."""
    step = current_step.get()
    if step is not None:
        value: SecretValue = await in_thread(step.get_secret, name)
        return value
    runtime = current_runtime.get() or default_manager().create_runtime(context.tenant_id, "")
    return SecretValue(await runtime.resolve_secret(name))
