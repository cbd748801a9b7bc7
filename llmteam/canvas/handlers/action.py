"""``action``: takes an action that the worker's modules registered. Retries are the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmteam.actions.exceptions import ActionFailedError
from llmteam.actions.executor import ActionExecutor
from llmteam.actions.models import ActionResult
from llmteam.actions.policy import is_transient
from llmteam.actions.registry import default_registry
from llmteam.canvas.exceptions import CanvasError
from llmteam.canvas.handlers.document import document
from llmteam.canvas.ports import Ports
from llmteam.ids import utc_now
from llmteam.runtime.context import StepContext

_PORTS = ("payload", "input")


class ActionPayloadError(CanvasError):
    """What an ``action`` step is given is no object, so that it cannot be a payload."""

    def __init__(self, step_id: str, kind: str) -> None:
        super().__init__(f"Step '{step_id}': an action takes an object as its payload, not a {kind}")
        self.step_id = step_id
        self.kind = kind


async def take_action(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Ports:
    """Take the action and answer with its data, its result and its status code.

    The same call of the same visit has the same idempotency key, so that what was done in an earlier attempt is found
    and not done again. Raises :class:`ActionFailedError`, :class:`ActionPayloadError`.
    """
    payload = config.get("payload")
    if payload is None:
        payload = document(ctx, input_data, _PORTS)
    if not isinstance(payload, Mapping):
        raise ActionPayloadError(ctx.step_id, type(payload).__name__)
    found: object = ctx.runtime.actions
    executor = found if isinstance(found, ActionExecutor) else ActionExecutor(default_registry)
    left = None if ctx.deadline is None else max((ctx.deadline - utc_now()).total_seconds(), 0.001)
    action = executor.registry.get_config(config["action"])
    within = None if left is None or action is None else min(action.timeout_seconds, left)
    result = await executor.execute(
        config["action"],
        payload,
        timeout=within,
        idempotency_key=ctx.idempotency_key or None,
        # The engine is the one who tries again, and let the step in under the limit of its action's name.
        retries=0,
        under_limits=False,
    )
    ctx.annotate(
        "action", {"action_id": result.action_name, "status": result.status.value, "code": result.response_code}
    )
    if result.success or config.get("fail_on_error", True) is False:
        return Ports({"output": result.response_data, "result": _shown(result), "status": result.response_code})
    transient = action is not None and action.repeatable and is_transient(action, result)
    limited = result.error_type in ("RateLimitExceeded", "CircuitOpenError")
    raise ActionFailedError(
        result.action_name,
        result.error_type or result.status.value,
        result.error_message,
        retryable=transient or limited,
        retry_after=result.retry_after,
        status=result.response_code,
    )


def _shown(result: ActionResult) -> dict[str, Any]:
    """The result without its data, which has a port of its own."""
    return {name: value for name, value in result.to_dict().items() if name not in ("response_data", "audit_metadata")}
