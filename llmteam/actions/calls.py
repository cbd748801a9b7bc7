"""A call as the executor prepares it: who calls, for whom, in which step, under which key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from llmteam import codec
from llmteam.actions.handlers import ActionHandler
from llmteam.actions.models import ActionConfig, ActionContext
from llmteam.actions.stores import Call
from llmteam.errors import NotJSONError
from llmteam.ids import new_id
from llmteam.runtime.context import StepContext, current_runtime, get_current_step
from llmteam.tenancy.context import DEFAULT_TENANT, get_current_tenant

#: Retries where only the action's own number counts.
UNLIMITED = 1_000_000


@dataclass
class PreparedCall:
    """One call. ``record`` is what it is kept as, where run and step are known; ``step`` the one that makes it."""

    context: ActionContext
    payload_hash: str
    record: Call | None
    step: StepContext | None = None
    config: ActionConfig | None = None
    handler: ActionHandler | None = None
    retries: int = UNLIMITED
    under_limits: bool = True
    began: float = field(default_factory=time.monotonic)


def prepared(
    action_id: str,
    given: ActionContext | None,
    payload: Mapping[str, Any] | None,
    said: Mapping[str, str | None],
    timeout: timedelta | float | None,
    idempotency_key: str | None,
    *,
    now: datetime,
    owner: Callable[[], str],
) -> PreparedCall:
    """The call with all that the running code says about it, else for the tenant that ``owner`` gives.

    Raises ``TypeError`` for a payload that is no mapping.
    """
    if payload is not None and not isinstance(payload, Mapping):
        raise TypeError(f"payload: a mapping is needed, not a {type(payload).__name__}")
    step = get_current_step()
    context = replace(given) if given is not None else _found(action_id, payload or {}, said, step)
    context.action_name, context.timestamp = action_id, now
    context.tenant_id = context.tenant_id or get_current_tenant() or owner() or DEFAULT_TENANT
    if timeout is not None:
        context.timeout = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
    if step is not None and not context.step_id and context.run_id == step.run_id:
        context.step_id, context.visit = step.step_id, step.visit
    digest = _digest(context.input_data)
    context.idempotency_key = idempotency_key or context.idempotency_key or _key(context, digest)
    record = None
    if context.run_id and context.step_id and digest:
        ids = (context.tenant_id, action_id, context.idempotency_key, context.run_id, context.step_id)
        record = Call(*ids, context.visit, digest)
    return PreparedCall(context, digest, record, step)


def _found(
    action_id: str, payload: Mapping[str, Any], said: Mapping[str, str | None], step: StepContext | None
) -> ActionContext:
    runtime = current_runtime.get()
    run_id = said["run_id"] or ("" if runtime is None else runtime.run_id)
    tenant = said["tenant_id"] or ("" if runtime is None else runtime.tenant_id) or get_current_tenant()
    return ActionContext(
        action_id,
        run_id,
        said["agent_name"] or ("system" if step is None else step.step_id),
        tenant,
        dict(payload),
        correlation_id=said["correlation_id"] or run_id or new_id(),
    )


def _digest(payload: Mapping[str, Any]) -> str:
    """SHA-256 of the payload; empty for one that is no JSON, which the executor refuses."""
    try:
        return codec.digest(codec.canonical(payload, path="$.payload"))
    except NotJSONError:
        return ""


def _key(context: ActionContext, digest: str) -> str:
    """In a step the same for the same call, however often the step is tried; else a fresh one."""
    if not (context.run_id and context.step_id):
        return new_id()
    whole = codec.digest(codec.canonical([context.action_name, digest]))
    return f"{context.run_id}:{context.step_id}:{context.visit}:{whole[:16]}"
