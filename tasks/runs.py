"""The tasks of runs. Each asks the engine of its process; none has logic of its own."""

from __future__ import annotations

from typing import Any

from celery import Task, shared_task

from llmteam.dispatch import RUN_STEP, START_RUN, Hint
from llmteam.tasks.request import HintRequest
from llmteam.tasks.worker import step_worker


class _HintTask(Task):  # type: ignore[misc]
    Request = HintRequest


@shared_task(name=RUN_STEP, bind=True, base=_HintTask, ignore_result=True)  # type: ignore[untyped-decorator]
def run_step(self: Task, tenant_id: str, run_id: str, step_id: str, visit: int = 1) -> None:
    """Look whether a step is due, and run it if it is. A hint for what is not due does nothing."""
    queue = (self.request.delivery_info or {}).get("routing_key") or ""
    step_worker().run_step(Hint(tenant_id, run_id, step_id, visit, queue), self.request.chord)


@shared_task(name=START_RUN, bind=True, base=_HintTask, ignore_result=True)  # type: ignore[untyped-decorator]
def start_run(
    self: Task,
    tenant_id: str,
    segment: dict[str, Any] | str,
    input: Any = None,  # noqa: A002  # the name is part of the message
    run_id: str | None = None,
    signature: str | None = None,
    idempotency_key: str | None = None,
    started_by: str | None = None,
    forwarded: bool = False,
) -> str | None:
    """Start a run for a producer that has only Celery; the message is the one that carries data.

    ``forwarded``: a worker of another region sent it on.
    """
    return step_worker().start_run(
        tenant_id, segment, input, run_id, idempotency_key, signature, started_by, forwarded=forwarded
    )
