"""What beat sends, and how often. Names and seconds only, so that it can be read without Celery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Seconds between two sweeps, unless LLMTEAM_SWEEP_SECONDS says otherwise.
SWEEP_SECONDS = 5.0

#: Task by name of the sweep.
SWEEPS: Mapping[str, str] = {"due": "llmteam.sweep_due"}


def celery_schedule(seconds: float = SWEEP_SECONDS) -> dict[str, dict[str, Any]]:
    """The sweeps as Celery's ``beat_schedule``. A tick that no worker took before the next one is dropped."""
    return {
        name: {"task": task, "schedule": seconds, "options": {"expires": seconds, "queue": "llmteam.control"}}
        for name, task in SWEEPS.items()
    }
