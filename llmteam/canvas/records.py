"""What run stores take and give besides the state that transitions work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from llmteam import codec
from llmteam.canvas.graph import Node
from llmteam.canvas.models import SegmentDefinition, StepTypeFacts
from llmteam.canvas.routing import Source, StepOutput
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import Change, Key, RunState, SegmentStatus, Slice, StepRow
from llmteam.events.models import ErrorInfo, EventDraft
from llmteam.regions import DEFAULT_REGION

if TYPE_CHECKING:
    from llmteam.audit.stores import AuditStoreFace
    from llmteam.context.runs import Contexts
    from llmteam.human.interactions import Interactions
    from llmteam.persistence.stores import SnapshotStore


#: Characters of an input that stands in the run's row; a longer one is a payload of its own.
INLINE_INPUT = 8192


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The settings of one run, written with it. Durations are in seconds; ``started_by`` is the person, if known.

    ``snapshot_interval`` is the number of completed steps between two snapshots that the run takes by itself, 0 for
    none; ``snapshot_on_error`` whether it takes one when it fails, None for: if it takes any by itself.
    """

    max_retries: int = 3
    retry_delay: float = 1.0
    timeout_seconds: float | None = None
    step_timeout: float | None = None
    started_by: str = ""
    snapshot_interval: int = 0
    snapshot_on_error: bool | None = None

    @property
    def keeps_failures(self) -> bool:
        """Whether a failure leaves a snapshot."""
        return self.snapshot_interval > 0 if self.snapshot_on_error is None else self.snapshot_on_error

    def to_dict(self) -> dict[str, Any]:
        """As it is written; what earlier versions do not know only where it says something."""
        unsaid = {"snapshot_interval": 0, "snapshot_on_error": None}
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if name not in unsaid or unsaid[name] != value}


@dataclass(frozen=True, slots=True)
class PinnedDefinition:
    """A definition with the facts of its step types, as a run was started with it; ``hash`` covers both."""

    hash: str
    definition: SegmentDefinition
    facts: Mapping[str, StepTypeFacts]


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


#: What a transition asks of the tenant's standing.
Door = Literal["admit", "standing"]

LinkKind = Literal["retry", "fork", "restart"]


@dataclass(frozen=True, slots=True)
class Link:
    """Where a run comes from.

    ``root_run_id`` is the run whose idempotency keys it uses. Of a retry or a fork, steps that are over in the parent
    are taken over with their outputs, but for ``outputs``, which replace them; ``given`` is JSON text that a step gets
    instead of its gathered input.
    """

    kind: LinkKind
    parent_run_id: str
    root_run_id: str
    outputs: Mapping[Key, StoredOutput] = field(default_factory=dict)
    given: Mapping[Key, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be created. ``input`` is JSON text, ``context`` what workers rebuild the runtime context from.

    ``idempotency_key`` is the caller's name for this start; ``replaces`` a run that had it until now; ``by`` the person
    who retries or forks, if known.
    """

    tenant_id: str
    run_id: str
    pinned: PinnedDefinition
    input: str
    options: RunOptions = field(default_factory=RunOptions)
    instance_id: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    replaces: str | None = None
    link: Link | None = None
    by: str = ""

    @property
    def agents(self) -> int:
        """How many of its steps ask a model: what the tenant's limit of agents is about."""
        return sum(step.step_type == "llm_agent" for step in self.pinned.definition.steps)

    @property
    def start_hash(self) -> str:
        """Digest of what is started: two starts with the same one ask for the same."""
        return codec.digest(f"{self.pinned.hash}\n{self.input}")


@dataclass(frozen=True, slots=True)
class Taken:
    """The run that was there before: the one with this id, or with this idempotency key."""

    run_id: str
    status: SegmentStatus
    start_hash: str | None


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What every worker needs to know of a run besides its state.

    ``queues``: the tenant's starts wait for their turn, so that the end of this run may let another one begin.
    """

    tenant_id: str
    run_id: str
    instance_id: str
    segment_id: str
    definition_hash: str
    options: RunOptions
    context: Mapping[str, Any]
    root_run_id: str
    link: str | None = None
    queues: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """A step as a hint finds it, with what it takes as input.

    ``input`` is the run's own, given to the entry step, or what a fork gives to the step it begins with.
    """

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
    running: int = 0
    paused_at: datetime | None = None
    snapshot_id: str | None = None
    parent_run_id: str | None = None
    root_run_id: str = ""
    link: str | None = None
    idempotency_key: str | None = None
    wake_at: datetime | None = None
    region: str = DEFAULT_REGION


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step execution as it is shown. ``hints`` were sent for it since it became ready.

    ``held_owner`` and ``held_wake_at`` are what it waited for when its run was paused.
    """

    row: StepRow
    queue: str
    holder: str | None
    lease_until: datetime | None
    output: Any = None
    hints: int = 0
    held_owner: str | None = None
    held_wake_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """A claim that a process holds."""

    tenant_id: str
    run_id: str
    key: Key
    fence: int


Transition = Callable[[Slice], Change]
#: From a run, its input and all its steps (large outputs as references) to a pause that takes hold, and its snapshot.
Seal = Callable[[Slice, Any, Sequence["StepRecord"]], tuple[Change, SegmentSnapshot | None]]


class RunStore(Protocol):
    """Where runs live. Synchronous; each method is one transaction. Everything is seen by one tenant only.

    ``region`` is where this process runs steps; those of runs of other regions are neither gathered nor claimed.
    """

    region: str

    @property
    def interactions(self) -> Interactions:
        """Where the requests of waiting steps live, in whose transactions a run's changes take part."""
        ...

    @property
    def audit(self) -> AuditStoreFace:
        """Where starts, ends, pauses and resumes of runs are told, in the transactions that make them."""
        ...

    @property
    def snapshots(self) -> SnapshotStore:
        """Where snapshots of these runs are kept: those of pauses, and those that runs take by themselves."""
        ...

    @property
    def contexts(self) -> Contexts:
        """The contexts of the agents of these runs."""
        ...

    def create(self, run: NewRun, change: Change, nodes: Mapping[str, Node]) -> bool:
        """Write a new run with all its rows, or one that waits for its turn; False when its id or key is taken.

        The region of ``change.run`` is from then on that of the tenant.
        Raises :class:`TenantError` kinds when the tenant may not start it; then nothing is written.
        """
        ...

    def taken(self, tenant_id: str, run_id: str | None, idempotency_key: str | None) -> Taken | None:
        """The run of this idempotency key, else the one of this id."""
        ...

    def definition(self, tenant_id: str, definition_hash: str) -> PinnedDefinition:
        """What a run was started with. Raises :class:`UnknownSegmentError`."""
        ...

    def gather(self, tenant_id: str, run_id: str, key: Key) -> Work | None:
        """The step and its input, without a lock; None when there is no such row, or its run is of another region."""
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
        door: Door | None = None,
    ) -> Change:
        """Lock the run, run ``transition`` on the slice of ``keys``, write what it changed.

        With the ``door`` ``admit`` it takes one more place among the tenant's open runs, with ``standing`` the tenant
        has to be active; raises :class:`TenantError` kinds when there is none, or it is not. With ``seen`` a store may
        leave out the lock and the look, and write only if nothing has happened since.
        """
        ...

    def take_hold(self, header: RunHeader, seal: Seal, *, now: datetime) -> Change:
        """Lock the run, give ``seal`` its input and all its steps, write the change and the snapshot."""
        ...

    def snapshot(self, tenant_id: str, snapshot_id: str) -> SegmentSnapshot | None: ...

    def renew(self, holdings: Sequence[Holding], lease: timedelta) -> set[Holding]:
        """Extend the leases of these claims, of whatever tenants; those that no longer hold their step."""
        ...

    def lost(self, holdings: Sequence[Holding]) -> set[Holding]:
        """Those of these claims that no longer hold their step; nothing is written."""
        ...

    def queued(self, tenant_id: str) -> str | None:
        """The run of the tenant that has waited longest for its turn."""
        ...

    def ready(self, tenant_id: str, run_id: str) -> list[StepRow]:
        """Steps of a run that are ready, or wait for somebody, and are not held by a pause."""
        ...

    def header(self, tenant_id: str, run_id: str) -> RunHeader | None: ...

    def record(self, tenant_id: str, run_id: str) -> RunRecord | None: ...

    def records(
        self,
        tenant_id: str,
        *,
        status: SegmentStatus | None = None,
        segment_id: str | None = None,
        limit: int = 50,
        before: tuple[datetime, str] | None = None,
    ) -> list[RunRecord]:
        """Newest first, runs of one moment by id; with ``before`` (``created_at`` and id of one) only those after it
        in that order.
        """
        ...

    def steps(self, tenant_id: str, run_id: str, *, outputs: bool = True) -> list[StepRecord]:
        """In the order in which they began; without ``outputs`` what steps gave is not read."""
        ...

    def input(self, tenant_id: str, run_id: str) -> str | None:
        """What the run was started with, as JSON text."""
        ...

    def outputs(self, tenant_id: str, run_id: str) -> dict[str, Any]:
        """What the steps gave that nothing came after: one step's answer as it is, of several one entry per step."""
        ...
