"""Callbacks of a caller, driven by the events of a run; their errors are logged and change nothing."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from llmteam.canvas.results import RunConfig, StepError
from llmteam.events.models import EventType, WorktrailEvent
from llmteam.runtime.context import HookName, RuntimeContext

logger = logging.getLogger(__name__)


def has_hooks(runtime: RuntimeContext | None) -> bool:
    """Whether a runtime wants to be told of anything."""
    if runtime is None:
        return False
    hooks = (runtime.on_event, runtime.on_step_start, runtime.on_step_complete, runtime.on_step_error)
    return any(hook is not None for hook in hooks)


async def tell(event: WorktrailEvent, config: RunConfig | None, runtime: RuntimeContext | None) -> None:
    """Call whoever asked to be told of such an event."""
    step_id = event.step_id or ""
    hook: HookName | None = None
    what: Any = None
    if event.event_type is EventType.STEP_STARTED:
        hook, what = "on_step_start", event.payload.get("input")
    elif event.event_type is EventType.STEP_COMPLETED:
        hook, what = "on_step_complete", event.payload.get("output")
    elif event.event_type is EventType.STEP_FAILED and event.error is not None:
        hook, what = "on_step_error", StepError(step_id, event.error)
    if hook is not None:
        await call_back(getattr(config, hook, None), step_id, what)
    if runtime is not None:
        runtime.notify("on_event", event)
        if hook is not None:
            runtime.notify(hook, event)


async def call_back(callback: Callable[..., Any] | None, *args: Any) -> None:
    """Call a callback, plain or ``async``, if there is one."""
    if callback is None:
        return
    try:
        answer = callback(*args)
        if inspect.isawaitable(answer):
            await answer
    except Exception:
        logger.exception("a callback of the run failed")
