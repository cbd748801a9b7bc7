"""What a caller gives to a run besides its input, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.records import RunOptions, RunRecord
from llmteam.canvas.state import SegmentStatus
from llmteam.errors import LLMTeamError
from llmteam.events.models import ErrorInfo, WorktrailEvent
from llmteam.human.checks import fault_of_name

#: May be plain or ``async``; its errors are logged and change nothing.
Callback = Callable[..., Any]


@dataclass
class RunConfig:
    """How one run differs from what its segment says.

    ``started_by`` names the person who starts the run, whom steps with four eyes then do not ask.
    ``timeout_seconds`` and ``timeout`` are two spellings of one thing. ``retry_delay`` is a timedelta or seconds.
    ``snapshot_interval`` is the number of completed steps between two snapshots of the run, 0 for none;
    ``snapshot_on_error`` whether a failure leaves one, by default if there is an interval.
    Callbacks are called in the process that waits for the run: ``on_step_start(step_id, input)``,
    ``on_step_complete(step_id, output)``, ``on_step_error(step_id, error)``, ``on_cancel(result)``.

    Raises:
        ValueError: both timeouts are given and differ, a number is negative, or a name is none.
    """

    timeout_seconds: float | None = None
    max_retries: int = 3
    timeout: timedelta | None = None
    retry_delay: timedelta | float = timedelta(seconds=1)
    on_step_start: Callback | None = None
    on_step_complete: Callback | None = None
    on_step_error: Callback | None = None
    on_cancel: Callback | None = None
    snapshot_interval: int = 0
    step_timeout: float | None = None
    started_by: str = ""
    snapshot_on_error: bool | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None:
            seconds = self.timeout.total_seconds()
            if self.timeout_seconds not in (None, seconds):
                raise ValueError(f"timeout is {seconds:g} s and timeout_seconds is {self.timeout_seconds:g}: give one")
            self.timeout_seconds = seconds
        elif self.timeout_seconds is not None:
            with suppress(OverflowError, ValueError):  # refused below, or longer than any timedelta
                self.timeout = timedelta(seconds=self.timeout_seconds)
        if self.started_by and (fault := fault_of_name(self.started_by)):
            raise ValueError(f"started_by: the name {fault}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries is {self.max_retries}; it must be at least 0")
        if self.snapshot_interval < 0:
            raise ValueError(f"snapshot_interval is {self.snapshot_interval}; it must be at least 0")
        for name in ("timeout_seconds", "step_timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is {value:g}; it must be a number of seconds above 0, or None for no limit")
        if not 0 <= self.delay_seconds < float("inf"):
            raise ValueError(f"retry_delay is {self.delay_seconds:g}; it must be a number of seconds, at least 0")

    @property
    def delay_seconds(self) -> float:
        """``retry_delay`` in seconds."""
        delay = self.retry_delay
        return delay.total_seconds() if isinstance(delay, timedelta) else float(delay)

    @property
    def has_callbacks(self) -> bool:
        given = (self.on_step_start, self.on_step_complete, self.on_step_error, self.on_cancel)
        return any(callback is not None for callback in given)


def run_options(segment: SegmentDefinition, config: RunConfig | None) -> RunOptions:
    """The settings of a run: the caller's, when a configuration is given, else the segment's."""
    params = segment.params
    timeout = None if params.timeout_seconds is None else float(params.timeout_seconds)
    if config is None:
        return RunOptions(max_retries=params.max_retries, timeout_seconds=timeout)
    return RunOptions(
        max_retries=config.max_retries,
        retry_delay=config.delay_seconds,
        timeout_seconds=timeout if config.timeout_seconds is None else config.timeout_seconds,
        step_timeout=config.step_timeout,
        started_by=config.started_by,
        snapshot_interval=config.snapshot_interval,
        snapshot_on_error=config.snapshot_on_error,
    )


@dataclass
class SegmentResult:
    """How a run ended, or how far it is."""

    run_id: str
    segment_id: str
    status: SegmentStatus
    outputs: dict[str, Any] = field(default_factory=dict)
    error: ErrorInfo | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_ms: int = 0
    steps_completed: int = 0
    steps_total: int = 0
    current_step: str | None = None
    resumed_from: str | None = None
    events: list[WorktrailEvent] = field(default_factory=list, repr=False)

    @classmethod
    def of(
        cls, record: RunRecord, outputs: dict[str, Any], events: list[WorktrailEvent], current_step: str | None = None
    ) -> SegmentResult:
        """From what the run store says."""
        duration = 0
        if record.started_at is not None and record.finished_at is not None:
            duration = round((record.finished_at - record.started_at).total_seconds() * 1000)
        return cls(
            run_id=record.run_id,
            segment_id=record.segment_id,
            status=record.status,
            outputs=outputs,
            error=record.error,
            started_at=record.started_at,
            completed_at=record.finished_at,
            duration_ms=duration,
            steps_completed=record.steps_completed,
            steps_total=record.steps_total,
            current_step=current_step,
            events=events,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON of everything but the events."""
        return {
            "run_id": self.run_id,
            "segment_id": self.segment_id,
            "status": self.status.value,
            "outputs": self.outputs,
            "output": self.outputs,
            "error": None if self.error is None else self.error.to_dict(),
            "started_at": None if self.started_at is None else self.started_at.isoformat(),
            "completed_at": None if self.completed_at is None else self.completed_at.isoformat(),
            "duration_ms": self.duration_ms,
            "steps_completed": self.steps_completed,
            "steps_total": self.steps_total,
            "current_step": self.current_step,
            "resumed_from": self.resumed_from,
        }


class StepError(LLMTeamError):
    """What ``on_step_error`` is given: the failure of a step as it was recorded."""

    def __init__(self, step_id: str, info: ErrorInfo) -> None:
        super().__init__(f"Step '{step_id}' failed: {info.error_type}: {info.error_message}")
        self.step_id = step_id
        self.info = info
