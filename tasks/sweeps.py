"""What beat starts: look for work that is due and not moving, and hint at it again."""

from __future__ import annotations

from celery import shared_task

from llmteam.beat_schedules import SWEEPS
from llmteam.tasks.worker import step_worker


@shared_task(name=SWEEPS["due"], ignore_result=True)  # type: ignore[untyped-decorator]
def sweep_due() -> None:
    """Hint again at steps that are due and not moving, and end runs whose deadline has passed."""
    step_worker().sweep_due()
