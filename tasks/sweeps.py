"""What beat starts: one small task for each sweep. Twice at once, or not at all for a while, does no harm."""

from __future__ import annotations

from celery import shared_task

from llmteam.beat_schedules import SWEEPS
from llmteam.tasks.worker import step_worker


@shared_task(name=SWEEPS["due"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_due() -> None:
    """Hint again at steps that are due and not moving."""
    step_worker().sweeper.sweep("due")


@shared_task(name=SWEEPS["expired"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_expired() -> None:
    """Take steps from workers that vanished, and end those that outlived their deadline."""
    step_worker().sweeper.sweep("expired")


@shared_task(name=SWEEPS["runs"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_runs() -> None:
    """End runs that are over time, and let pauses take hold."""
    step_worker().sweeper.sweep("runs")


@shared_task(name=SWEEPS["starts"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_starts() -> None:
    """Let runs begin that wait until their tenant has room for them."""
    step_worker().sweeper.sweep("starts")


@shared_task(name=SWEEPS["people"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_people() -> None:
    """Remind people, escalate and time out what they are asked."""
    step_worker().sweeper.sweep("people")


@shared_task(name=SWEEPS["notifications"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_notifications() -> None:
    """Deliver what people are to be told."""
    step_worker().sweeper.sweep("notifications")


@shared_task(name=SWEEPS["retention"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_retention() -> None:
    """Delete runs that have been over for longer than LLMTEAM_RETENTION_DAYS."""
    step_worker().sweeper.sweep("retention")


@shared_task(name=SWEEPS["audit"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_audit() -> None:
    """Remove audit records that were kept for as long as their tenant says; not without LLMTEAM_AUDIT_KEYS."""
    step_worker().sweeper.sweep("audit")


@shared_task(name=SWEEPS["storage"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_storage() -> None:
    """Meter what tenants store that have a limit of it."""
    step_worker().sweeper.sweep("storage")
