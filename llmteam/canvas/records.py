"""What run stores take and give besides the state that transitions work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from llmteam import codec
from llmteam.canvas.graph import Node
from llmteam.canvas.models import SegmentDefinition, StepTypeFacts
from llmteam.canvas.routing import Source, StepOutput
from llmteam.canvas.state import Change, Key, RunState, SegmentStatus, Slice, StepRow
from llmteam.events.models import ErrorInfo, EventDraft
from llmteam.events.payloads import omission, prepare


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The settings of one run, written with it. Durations are in seconds."""

    max_retries: int = 3
    retry_delay: float = 1.0
    timeout_seconds: float | None = None
    step_timeout: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class PinnedDefinition:
    """A definition with the facts of its step types, as a run was started with it; ``hash`` covers both."""

    hash: str
    definition: SegmentDefinition
    facts: Mapping[str, StepTypeFacts]


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be created. ``input`` is JSON text, ``context`` what workers rebuild the runtime context from."""

    tenant_id: str
    run_id: str
    pinned: PinnedDefinition
    input: str
    options: RunOptions = field(default_factory=RunOptions)
    instance_id: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """A step's answer as JSON text of its ports, with its digest when it is too large to stand in the row."""

    text: str
    whole: bool
    digest: str | None = None
    size: int = 0

    def parsed(self) -> StepOutput:
        """The answer itself."""
        return StepOutput(codec.loads(self.text), self.whole)


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What every worker needs to know of a run besides its state."""

    tenant_id: str
    run_id: str
    instance_id: str
    segment_id: str
    definition_hash: str
    options: RunOptions
    context: Mapping[str, Any]
    root_run_id: str


@dataclass(frozen=True, slots=True)
class Work:
    """A step as a hint finds it, with what it takes as input. ``input`` is the run's own, given to the entry step."""

    header: RunHeader
    run: RunState
    row: StepRow
    sources: Sequence[Source]
    input: Any = None
    takes_run_input: bool = False
    local_state: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a claim saw of a run: its next event number, its row and some of its steps' rows."""

    next_seq: int
    run: RunState
    rows: Sequence[StepRow]


@dataclass(frozen=True, slots=True)
class Claimed:
    """That a step was taken. ``seen`` is there when nothing else of the run was moving."""

    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as it is shown."""

    tenant_id: str
    run_id: str
    instance_id: str
    segment_id: str
    definition_hash: str
    status: SegmentStatus
    steps_completed: int
    steps_total: int
    error: ErrorInfo | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step execution as it is shown. ``hints`` counts what sweeps sent since it last changed."""

    row: StepRow
    queue: str
    holder: str | None
    lease_until: datetime | None
    output: Any = None
    hints: int = 0


def run_outputs(terminals: Mapping[str, StepOutput]) -> dict[str, Any]:
    """A run's outputs: of one last step its answer, of several one entry per step."""
    if len(terminals) == 1:
        return next(iter(terminals.values())).as_result
    return {step_id: output.value for step_id, output in terminals.items()}


def outputs_payload(terminals: Mapping[str, StepOutput]) -> dict[str, Any]:
    """A run's outputs for its last event; what is too large is left out with its size."""
    return prepare({"output": run_outputs(terminals)}, replace=omission)[0]


Transition = Callable[[Slice], Change]


class RunStore(Protocol):
    """Where runs live. Synchronous; each method is one transaction. Everything is seen by one tenant only."""

    def create(self, run: NewRun, change: Change, nodes: Mapping[str, Node]) -> bool:
        """Write a new run with all its rows; False when the id is taken."""
        ...

    def definition(self, tenant_id: str, definition_hash: str) -> PinnedDefinition:
        """What a run was started with. Raises :class:`UnknownSegmentError`."""
        ...

    def gather(self, tenant_id: str, run_id: str, key: Key) -> Work | None:
        """The step and its input, without a lock; None when there is no such row."""
        ...

    def claim(
        self,
        work: Work,
        claimed: StepRow,
        event: EventDraft,
        lease: timedelta,
        holder: str,
        keys: Sequence[Key] | None = None,
    ) -> Claimed | None:
        """Take the step as compare-and-set; None when somebody else was faster or the run is over.

        ``keys`` are the rows that finishing the step will need beside its own, if the store should look at once.
        """
        ...

    def apply(
        self,
        header: RunHeader,
        keys: Sequence[Key],
        transition: Transition,
        nodes: Mapping[str, Node],
        *,
        now: datetime,
        finished: Key | None = None,
        output: StoredOutput | None = None,
        local_state: Mapping[str, Any] | None = None,
        seen: Seen | None = None,
    ) -> Change:
        """Lock the run, run ``transition`` on the slice of ``keys``, write what it changed.

        With ``seen`` a store may leave out the lock and the look, and write only if nothing has happened since.
        """
        ...

    def header(self, tenant_id: str, run_id: str) -> RunHeader | None: ...

    def record(self, tenant_id: str, run_id: str) -> RunRecord | None: ...

    def records(
        self, tenant_id: str, *, status: SegmentStatus | None = None, segment_id: str | None = None, limit: int = 50
    ) -> list[RunRecord]:
        """Newest first."""
        ...

    def steps(self, tenant_id: str, run_id: str, *, outputs: bool = True) -> list[StepRecord]:
        """In the order in which they began; without ``outputs`` what steps gave is not read."""
        ...

    def outputs(self, tenant_id: str, run_id: str) -> dict[str, Any]:
        """What the steps gave that nothing came after: one step's answer as it is, of several one entry per step."""
        ...
