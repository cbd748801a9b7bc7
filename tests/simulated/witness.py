"""Sees every event and every commit, and says what must hold at each moment of each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from llmteam.audit import AuditQuery
from llmteam.canvas.memory import MemoryRun
from llmteam.canvas.records import Holding
from llmteam.canvas.state import Key, SegmentStatus, StepRow, StepState
from llmteam.canvas.stores import MemoryRunStore
from llmteam.canvas.sweeping import Expired
from llmteam.dispatch import Hint
from llmteam.events.models import TERMINAL_TYPES, EventType, WorktrailEvent

#: What ends a claim, or takes it from its worker.
_ENDS = frozenset(
    {
        *(EventType.STEP_COMPLETED, EventType.STEP_FAILED, EventType.STEP_RETRYING),
        *(EventType.STEP_LOST, EventType.STEP_RELEASED),
    }
)
_WAITS = {
    StepState.PENDING: ("inputs",),
    StepState.READY: ("queue", "timer"),
    StepState.RUNNING: ("lease",),
    StepState.WAITING: ("person", "limit"),
}


@dataclass
class Story:
    """What was told of one run. ``live`` are claims that nothing has ended yet, ``claims`` how many there were."""

    seq: int = 0
    ended: bool = False
    paused: bool = False
    live: set[Key] = field(default_factory=set)
    claims: Counter[Key] = field(default_factory=Counter)
    told: Counter[tuple[str, Key]] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    errors: dict[Key, list[str]] = field(default_factory=dict)
    over: dict[Key, StepState] = field(default_factory=dict)
    asked: set[Key] = field(default_factory=set)


#: What the audit trail calls the events of runs.
_FACTS = {
    EventType.SEGMENT_QUEUED: "pipeline.created",
    EventType.SEGMENT_STARTED: "pipeline.started",
    EventType.SEGMENT_PAUSED: "pipeline.paused",
    EventType.SEGMENT_RESUMED: "pipeline.resumed",
    EventType.SEGMENT_COMPLETED: "pipeline.completed",
    EventType.SEGMENT_FAILED: "pipeline.failed",
    EventType.SEGMENT_CANCELLED: "pipeline.cancelled",
}
_RECORDED_ENDS = ("pipeline.completed", "pipeline.failed", "pipeline.cancelled")


class Witness:
    """Raises ``AssertionError`` at the commit that breaks a promise. ``trace`` is all that was told, in order."""

    def __init__(self) -> None:
        self.store: MemoryRunStore | None = None
        self.stories: dict[str, Story] = {}
        self.trace: list[tuple[str, str, str | None, int | None]] = []
        #: The claims whose outcome is being written right now: run, step and fence; the innermost last.
        self.writing: list[tuple[str, Key, int]] = []
        self._taken: set[Holding] = set()
        self._hasty: list[str] = []

    # -- events

    def tell(self, events: Sequence[WorktrailEvent]) -> None:
        """The sink of the store."""
        for event in events:
            story = self.stories.setdefault(event.run_id, Story())
            self.trace.append((event.run_id, event.event_type, event.step_id, event.visit))
            story.seq += 1
            assert event.seq == story.seq, f"{event.run_id}: event {event.seq} follows {story.seq - 1}"
            assert not story.ended, f"{event.run_id}: {event.event_type} after its end"
            if event.step_id is None:
                self._of_run(story, event)
            else:
                self._of_step(story, event, (event.step_id, event.visit or 1))

    def _of_run(self, story: Story, event: WorktrailEvent) -> None:
        story.ended = event.event_type in TERMINAL_TYPES
        story.facts[_FACTS.get(event.event_type, "")] += 1
        if event.event_type is EventType.SEGMENT_PAUSED:
            story.paused = True
            story.live.clear()
        elif event.event_type is EventType.SEGMENT_RESUMED:
            assert story.paused
            story.paused = False

    def _of_step(self, story: Story, event: WorktrailEvent, key: Key) -> None:
        kind = event.event_type
        story.told[kind, key] += 1
        where = f"{event.run_id}: {key}"
        # What people decide meanwhile is kept for the resume.
        assert not story.paused or kind is EventType.HUMAN_TASK_COMPLETED, f"{where}: {kind} while paused"
        if kind is EventType.HUMAN_TASK_CREATED:
            assert key in story.live, f"{where} asks without a claim"
            assert key not in story.asked, f"{where} asks twice"
            story.live.discard(key)
            story.asked.add(key)
        if kind is EventType.HUMAN_TASK_COMPLETED:
            assert story.told[kind, key] == 1, f"{where} was answered twice"
        if kind is EventType.STEP_DELAYED:
            assert key not in story.live, f"{where} waits for a limit while it was held"
            assert key not in story.asked, f"{where} waits for a limit and a person at once"
            assert key not in story.over, f"{where} waits for a limit although it is over"
        if kind is EventType.STEP_STARTED:
            assert key not in story.asked, f"{where} was claimed while it waits for a person"
            assert key not in story.live, f"{where} was claimed while it was held"
            assert key not in story.over, f"{where} was claimed although it is over"
            story.live.add(key)
            story.claims[key] += 1
        if kind not in _ENDS:
            return
        if kind is EventType.STEP_COMPLETED:
            assert story.told[kind, key] == 1, f"{where} completed twice"
            if key in story.asked:
                assert story.told[EventType.HUMAN_TASK_COMPLETED, key] == 1, f"{where} completed and nobody decided"
                return
            assert self.writing, f"{where} completed and nobody answered"
            assert self.writing[-1] == (event.run_id, key, story.claims[key]), (
                f"{where} completed by {self.writing[-1]} instead of claim {story.claims[key]}"
            )
        if event.error is not None:
            assert event.error.error_type != "StoppedError", f"{where}: {kind} because it was told to stop"
            story.errors.setdefault(key, []).append(event.error.error_type)
        lost = event.error is not None and event.error.error_type == "WorkerLostError"
        by_itself = kind is EventType.STEP_FAILED and (lost or story.claims[key] == 0 or key in story.asked)
        assert by_itself or key in story.live, f"{where}: {kind} without a claim"
        story.live.discard(key)

    # -- commits

    def run(self, tenant_id: str, run_id: str) -> MemoryRun | None:
        assert self.store is not None
        return self.store._runs.get((tenant_id, run_id))

    def committed(self, tenant_id: str, run_id: str) -> None:
        """Look at the run as it now stands."""
        assert not self._hasty, self._hasty
        run = self.run(tenant_id, run_id)
        if run is None:
            return
        story, state = self.stories[run_id], run.state
        assert run.next_seq == story.seq + 1, f"{run_id}: the next event has another number than the last one says"
        count: Counter[StepState] = Counter()
        terminals = 0
        for key, row in run.rows.items():
            count[row.state] += 1
            terminals += row.terminal
            known = story.over.get(key)
            assert known is None or known is row.state, f"{run_id}: {key} was {known} and is {row.state}"
            if row.state.is_open:
                self._waits(run, row)
            else:
                story.over[key] = row.state
        open_ = sum(number for kind, number in count.items() if kind.is_open)
        counted = (open_, count[StepState.RUNNING], count[StepState.COMPLETED], count[StepState.FAILED], terminals)
        kept = (state.open, state.running, state.completed, state.failed, state.terminals)
        assert counted == kept, f"{run_id}: its rows are {counted}, its counters {kept}"
        assert state.status.is_terminal == story.ended == (open_ == 0), f"{run_id} is {state.status}"

    def _waits(self, run: MemoryRun, row: StepRow) -> None:
        paused = (
            run.state.status in (SegmentStatus.PAUSED, SegmentStatus.PENDING) and row.state is not StepState.PENDING
        )
        owners = ("pause",) if paused else _WAITS[row.state]
        assert row.owner in owners, f"{row.key} is {row.state} and waits for {row.owner}"
        sleeps = row.owner in ("inputs", "pause")
        assert sleeps == (row.wake_at is None), f"{row.key} is {row.state} and wakes at {row.wake_at}"
        if paused:
            assert row.state is not StepState.RUNNING, f"{row.key} runs in a paused run"
        if row.state is StepState.WAITING and "limit" not in (row.owner, run.frozen.get(row.key, ("",))[0]):
            assert self.store is not None
            ident = (run.header.tenant_id, run.header.run_id)
            assert self.store.interactions.case_of_step(*ident, *row.key) is not None, f"{row.key} waits for nobody"

    # -- messages and leases

    def hinted(self, hint: Hint) -> None:
        """A hint is sent: for something that is committed. Told of at the next commit, as senders ignore errors."""
        run = self.run(hint.tenant_id, hint.run_id)
        row = None if run is None else run.rows.get((hint.step_id, hint.visit))
        if row is None or row.state is StepState.PENDING:
            self._hasty.append(f"a hint at {hint} before it is ready")

    def taken(self, found: Iterable[Expired]) -> None:
        """These leases were taken from whoever held them."""
        self._taken |= {Holding(one.tenant_id, one.run_id, one.key, one.fence) for one in found}

    def renewed(self, holdings: set[Holding]) -> None:
        """These leases are said to be extended."""
        again = holdings & self._taken
        assert not again, f"leases that were taken are renewed: {again}"

    # -- at the end

    def settled(self, tenant_id: str, run_id: str) -> None:
        """What holds for a run that is over, whatever happened to it."""
        assert not self._hasty, self._hasty
        run = self.run(tenant_id, run_id)
        assert run is not None
        story = self.stories[run_id]
        link = run.start.link
        for key, row in run.rows.items():
            if link is not None and row.fence == 0:
                self._taken_over(run, tenant_id, link.parent_run_id, row)
                continue
            failures = [one for one in story.errors.get(key, ()) if one != "WorkerLostError"]
            assert row.attempt == len(failures), f"{run_id}: {key} counts {row.attempt} attempts of {failures}"
            lost = story.told[EventType.STEP_LOST, key]
            assert row.losses == lost, f"{run_id}: {key} counts {row.losses} losses of {lost}"
            assert row.losses <= 5, f"{run_id}: {key} was lost {row.losses} times"
            assert row.fence == story.claims[key], f"{run_id}: {key} has fence {row.fence} of {story.claims[key]}"

    def recorded(self, tenant_id: str, run_id: str) -> None:
        """What holds for the audit trail of a run that is over: it tells what its events tell, each once."""
        assert self.store is not None
        query = AuditQuery(tenant_id=tenant_id, run_id=run_id, resource_type="pipeline", limit=1_000)
        told = Counter(record.event_type.value for record in self.store.audit.select(query))
        facts = Counter({kind: count for kind, count in self.stories[run_id].facts.items() if kind})
        # Of a pause the order is recorded; a run may be over before it takes hold.
        assert told.pop("pipeline.paused", 0) >= facts.pop("pipeline.paused", 0), f"{run_id}: a pause is not recorded"
        assert told == facts, f"{run_id}: the audit trail has {told} of {facts}"
        assert sum(told[end] for end in _RECORDED_ENDS) == 1, f"{run_id}: its end is recorded otherwise than once"

    def nobody_is_asked(self, tenant_id: str, run_id: str) -> None:
        """What holds for the requests of a run that is over."""
        assert self.store is not None
        story = self.stories[run_id]
        requests = self.store.interactions.of_run(tenant_id, run_id)
        assert not [one for one in requests if one.status.is_open], f"{run_id} is over and people are asked"
        assert {(one.step_name, one.visit) for one in requests} == story.asked, f"{run_id} asked something else"
        for one in requests:
            case = self.store.interactions.case(tenant_id, one.request_id)
            assert case is not None
            answered = one.status.value in ("completed", "rejected")
            assert (case.response is not None) == answered, f"{run_id}: {one.step_name} is {one.status}"

    def _taken_over(self, run: MemoryRun, tenant_id: str, parent_run_id: str, row: StepRow) -> None:
        """A row of a retry or a fork that nothing claimed is as it was in its parent, or nothing came of it."""
        parent = self.run(tenant_id, parent_run_id)
        assert parent is not None
        if row.state is StepState.COMPLETED:
            assert run.outputs[row.key] == parent.outputs[row.key], f"{row.key} has another output than in its parent"
            assert row.decisions == parent.rows[row.key].decisions
