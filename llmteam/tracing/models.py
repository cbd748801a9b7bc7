"""What is traced, as plain values, and who takes it. No OpenTelemetry here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

__all__ = ["Attributes", "Call", "Claim", "Ident", "Run", "Tracer", "Value"]

Value = str | bool | int | float
Attributes = Mapping[str, Value | None]
#: A claim of a step: tenant, run, step, visit, fence.
Ident = tuple[str, str, str, int, int]


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt at a step by one worker. ``attempt`` counts from 1; an attempt that was lost has the same number as
    the next one and another ``fence``.
    """

    tenant_id: str
    run_id: str
    segment_id: str
    step_id: str
    step_type: str
    visit: int
    fence: int
    attempt: int
    started_at: datetime

    @property
    def ident(self) -> Ident:
        return self.tenant_id, self.run_id, self.step_id, self.visit, self.fence


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is over. ``traceparent`` is where it was started from, ``root_run_id`` the run that it repeats."""

    tenant_id: str
    run_id: str
    segment_id: str
    status: str
    started_at: datetime
    finished_at: datetime
    root_run_id: str
    error_type: str | None = None
    completed: int = 0
    failed: int = 0
    traceparent: object = None


class Call(Protocol):
    """The span of a call to somebody else, as long as it is entered. An error that passes marks it as failed."""

    def set(self, name: str, value: Value | None) -> None:
        """Say more about the call; None says nothing."""
        ...

    def failed(self, error_type: str) -> None:
        """The call was answered, but not well."""
        ...

    def headers(self, authority: str) -> dict[str, str]:
        """What carries the trace to ``authority`` (host, and port where it is another), if it may go there."""
        ...


class Tracer(Protocol):
    """Where spans are made. Safe for threads; what goes wrong raises nothing that its caller would have to know."""

    def begin(self, claim: Claim, attributes: Attributes) -> None:
        """A worker here has taken the step."""
        ...

    def working(self, ident: Ident) -> AbstractContextManager[None]:
        """Make the span of the claim the one under which the code of the block makes others."""
        ...

    def is_open(self, ident: Ident) -> bool:
        """Whether the claim has begun here and nothing has ended it."""
        ...

    def end(self, claim: Claim, outcome: str, at: datetime, *, error_type: str | None = None) -> None:
        """The attempt is over, whether it began here or in a process that is gone."""
        ...

    def waited(self, claim: Claim, outcome: str, at: datetime, *, error_type: str | None = None) -> None:
        """A person was asked in this attempt, and what they said, or did not say, is now the step's outcome."""
        ...

    def drop(self, ident: Ident) -> None:
        """Others tell of this claim: forget it."""
        ...

    def origin(self, tenant_id: str, run_id: str) -> str | None:
        """What a run that is about to be started remembers as where it comes from; None when there is nothing."""
        ...

    def started(self, run: Run, traceparent: str) -> None:
        """It was started, where :meth:`origin` said so."""
        ...

    def ended(self, run: Run) -> None:
        """The run is over."""
        ...

    def flush(self, seconds: float) -> None:
        """Hand on what was not yet, waiting no longer than that."""
        ...
