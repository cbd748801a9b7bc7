"""What beat sends, and how often. Names and seconds only, so that it can be read without Celery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Seconds between two sweeps, unless LLMTEAM_SWEEP_SECONDS says otherwise.
SWEEP_SECONDS = 5.0
#: Seconds between two looks for runs that have been kept long enough.
RETENTION_SECONDS = 60.0
#: Seconds between two looks for audit records that have been kept long enough: whole days of them are removed.
AUDIT_SECONDS = 600.0
#: Seconds between two looks for tenants whose storage was metered an hour ago.
STORAGE_SECONDS = 60.0

#: Task by name of the sweep: steps that are due and not moving; leases and deadlines that ran out unnoticed; runs over
#: time and pauses that should have taken hold; runs that wait until their tenant has room; reminders, escalations and
#: deadlines of what people are asked; what they are to be told; runs, and then audit records, that have been kept
#: long enough; what tenants store.
SWEEPS: Mapping[str, str] = {
    "due": "llmteam.sweep_due",
    "expired": "llmteam.sweep_expired",
    "runs": "llmteam.sweep_runs",
    "starts": "llmteam.sweep_starts",
    "people": "llmteam.sweep_people",
    "notifications": "llmteam.sweep_notifications",
    "retention": "llmteam.sweep_retention",
    "audit": "llmteam.sweep_audit",
    "storage": "llmteam.sweep_storage",
}

_LEAST = {"retention": RETENTION_SECONDS, "audit": AUDIT_SECONDS, "storage": STORAGE_SECONDS}


def celery_schedule(seconds: float = SWEEP_SECONDS, queue: str = "llmteam.control") -> dict[str, dict[str, Any]]:
    """The sweeps as Celery's ``beat_schedule``, for the workers of ``queue``.

    A tick that no worker took before the next one is dropped.
    """
    return {name: _entry(task, _interval(name, seconds), queue) for name, task in SWEEPS.items()}


def _interval(name: str, seconds: float) -> float:
    return max(seconds, _LEAST.get(name, 0.0))


def _entry(task: str, seconds: float, queue: str) -> dict[str, Any]:
    return {"task": task, "schedule": seconds, "options": {"expires": seconds, "queue": queue}}
