"""The simulation notices when the engine breaks its promises: each of these engines is found out by a few seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from llmteam.canvas import auditing, losses, transitions
from llmteam.canvas.asking import Asking
from llmteam.canvas.engine import Engine
from llmteam.canvas.execution import Execution
from llmteam.canvas.memory import MemorySweeps
from llmteam.canvas.records import Work
from llmteam.canvas.state import Change, SegmentStatus, Slice, StepRow, StepState
from llmteam.canvas.stores import MemoryRunStore, _attempt
from llmteam.canvas.sweeping import Expired
from llmteam.dispatch import Hint
from llmteam.human.memory import MemoryInteractions
from llmteam.human.models import InteractionRequest, InteractionStatus
from llmteam.human.rulings import Case, Rule, Ruling
from tests.conformance.desk import new_run
from tests.drawing import draw
from tests.simulated import actors
from tests.simulated.faults import FaultySweeps
from tests.simulated.histories import play
from tests.simulated.replies import Reply
from tests.simulated.world import TENANT, World

#: Seeds within which each mutant must be found out.
ENOUGH = 400


def found_out(world_class: type[World]) -> str:
    """What the first seed says that finds the mutant."""
    for seed in range(ENOUGH):
        try:
            play(seed, world_class)
        except AssertionError as broken:
            return str(broken)
    raise AssertionError(f"{ENOUGH} seeds noticed nothing")


class WithoutFence(Engine):
    """Accepts the answer of whoever held the step once."""

    def _finish(self, execution: Execution, *given: Any) -> Change:
        work = self.store.gather(execution.header.tenant_id, execution.header.run_id, execution.key)
        assert work is not None
        return super()._finish(replace(execution, fence=work.row.fence, seen=None), *given)


class Hasty(Engine):
    """Sends its hints before it commits."""

    def _finish(self, execution: Execution, *given: Any) -> Change:
        store, graph = self.store, execution.graph

        class Early:
            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            def apply(inner, header: Any, keys: Any, transition: Any, nodes: Any, *, now: datetime, **how: Any) -> Any:  # noqa: N805
                run = store._runs[header.tenant_id, header.run_id]  # type: ignore[attr-defined]
                change = _attempt(run, keys, transition, now)
                if change.applied:
                    self.outbox.send(header.tenant_id, graph, change)
                return store.apply(header, keys, transition, nodes, now=now, **how)

        self.store = Early()  # type: ignore[assignment]
        try:
            return super()._finish(execution, *given)
        finally:
            self.store = store


class ClaimsAll(MemoryRunStore):
    """Gives a step to whoever asks, also when somebody has it."""

    def claim(self, work: Any, claimed: Any, *given: Any) -> Any:
        row = self._runs[work.header.tenant_id, work.header.run_id].rows[claimed.key]
        return super().claim(replace(work, row=row), replace(claimed, fence=row.fence + 1), *given)


class SweepsOf(MemoryRunStore):
    """A store with other sweeps."""

    kind: type[MemorySweeps]

    @property
    def sweeps(self) -> MemorySweeps:
        return self.kind(self._runs, self._snapshots, self._clock, self.contexts.store)


class LeavesLeases(MemorySweeps):
    """Takes no lease from whom it reports as lost, so that it may be renewed meanwhile."""

    def take_expired(self, limit: int) -> list[Expired]:
        held = {key: dict(run.held) for key, run in self._runs.items()}
        found = super().take_expired(limit)
        for one in found:
            before = held[one.tenant_id, one.run_id]
            if one.key in before:
                self._runs[one.tenant_id, one.run_id].held[one.key] = before[one.key]
        return found


class LeavesTimers(MemorySweeps):
    """Pushes the next look at a retry out and lets the claim take it for its timer."""

    def take_due(self, limit: int, skip_queues: Sequence[str] = ()) -> list[Hint]:
        owners = {key: {row.key: row.owner for row in run.rows.values()} for key, run in self._runs.items()}
        hints = super().take_due(limit, skip_queues)
        for hint in hints:
            rows = self._runs[hint.tenant_id, hint.run_id].rows
            key = (hint.step_id, hint.visit)
            rows[key] = replace(rows[key], owner=owners[hint.tenant_id, hint.run_id][key])
        return hints


class LeaseStore(SweepsOf):
    kind = LeavesLeases


class TimerStore(SweepsOf):
    kind = LeavesTimers


class ForgetsPauses(MemoryRunStore):
    """Lets a paused run's timers go on."""

    def _write(self, run: Any, change: Change) -> None:
        if change.hold is not None and change.hold.freeze:
            change.hold = replace(change.hold, freeze=False)
        super()._write(run, change)


class NeverWakes(MemoryRunStore):
    """Leaves a step that waits for a person alone when they answer."""

    def _wake(self, request: InteractionRequest, moment: datetime | None) -> str | None:
        return None


class LeavesRequests(MemoryRunStore):
    """Leaves people asked whose answer nobody needs any more."""

    def _ask(self, run: Any, change: Change) -> None:
        if change.asks is not None:
            self.interactions.create(change.asks)


class RecordsTwice(MemoryRunStore):
    """Tells the audit trail of an end whenever something comes after it."""

    def apply(self, header: Any, keys: Any, *given: Any, **how: Any) -> Change:
        change = super().apply(header, keys, *given, **how)
        if not change.applied and self._runs[header.tenant_id, header.run_id].state.status is SegmentStatus.CANCELLED:
            ended = replace(change, ended=True)
            self.audit.add(header.tenant_id, auditing.change_of(header, ended))
        return change


class AnswersTwice(MemoryRunStore):
    """Takes an answer to a request that has one."""

    def use_interactions(self, interactions: MemoryInteractions) -> None:
        super().use_interactions(interactions)
        rightly = interactions.apply

        def wrongly(tenant_id: str, request_id: str, rule: Rule) -> Ruling | None:
            return rightly(tenant_id, request_id, lambda case: rule(_opened(case)))

        interactions.apply = wrongly  # type: ignore[method-assign]


def _opened(case: Case) -> Case:
    again = case.response is not None
    return replace(case, request=case.request.changed(status=InteractionStatus.PENDING)) if again else case


class AsksAgain(Asking):
    """Asks a second time when a step is looked at that waits."""

    def reply(self, hint: Hint, work: Work) -> bool:
        gone_on = super().reply(hint, work)
        if not gone_on and work.row.owner == "person":
            work.row.state, work.row.owner = StepState.READY, "queue"
            self._store._runs[work.header.tenant_id, work.header.run_id].rows[work.row.key] = work.row  # type: ignore[attr-defined]
        return gone_on


class AsksAgainEngine(Engine):
    def __init__(self, store: Any, **how: Any) -> None:
        super().__init__(store, **how)
        self.asking = AsksAgain(store, self._graphs, self.outbox, lambda: self.limits, self.clock)


def world_with(**replaced: Any) -> type[World]:
    return type("Mutant", (World,), replaced)


MUTANTS: dict[str, tuple[type[World], str]] = {
    "no fence": (world_with(engine_class=WithoutFence), "completed by|completed twice|without a claim"),
    "no sweep": (world_with(sweeps=()), "do not end"),
    "no lease is ever taken": (world_with(sweeps=("due", "runs")), "do not end"),
    "nobody ends runs that are late": (world_with(sweeps=("due", "expired")), "do not end"),
    "hints before the commit": (world_with(engine_class=Hasty), "before it is ready"),
    "claims without looking": (world_with(store_class=ClaimsAll), "claimed while|claimed although"),
    "retries that a sweep puts off for ever": (world_with(store_class=TimerStore), "do not end"),
    "a pause that fences nothing": (world_with(store_class=ForgetsPauses), "waits for"),
    "answers that wake nobody": (world_with(store_class=NeverWakes), "do not end"),
    "requests that outlive their run": (
        world_with(store_class=LeavesRequests),
        "people are asked|while paused|after its end",
    ),
    "ends that are recorded twice": (world_with(store_class=RecordsTwice), "the audit trail has"),
    "second answers": (world_with(store_class=AnswersTwice), "answered twice"),
    "steps that ask again": (world_with(engine_class=AsksAgainEngine), "claimed while it waits for a person"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_an_engine_that_breaks_a_promise_is_found_out(mutant: str) -> None:
    world_class, promise = MUTANTS[mutant]

    said = found_out(world_class)

    assert any(part in said for part in promise.split("|")), said


def test_losses_that_use_up_attempts_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rightly: Callable[..., Change] = losses.lose

    def wrongly(graph: Any, moment: Slice, key: Any, fence: int) -> Change:
        change = rightly(graph, moment, key, fence)
        if change.applied:
            change.steps[key].attempt += 1
        return change

    monkeypatch.setattr(losses, "lose", wrongly)

    assert "attempts of" in found_out(World)


def test_handlers_that_fail_because_they_were_stopped_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rightly = Engine.failed

    def wrongly(self: Engine, execution: Execution, exc: BaseException) -> Change:
        execution.revoked.clear()
        return rightly(self, execution, exc)

    monkeypatch.setattr(Engine, "failed", wrongly)

    assert "told to stop" in found_out(World)


def test_steps_that_a_limit_keeps_for_ever_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rightly = transitions.claim

    def wrongly(run: Any, row: StepRow, now: Any, timeout: Any) -> StepRow | None:
        return None if row.owner == "limit" else rightly(run, row, now, timeout)

    monkeypatch.setattr(transitions, "claim", wrongly)

    assert "do not end" in found_out(World)


def test_a_lease_that_nobody_renews_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors.Worker, "_look", lambda self: None)
    rightly = losses.lose

    def strictly(graph: Any, moment: Slice, key: Any, fence: int) -> Change:
        row = moment.read(key)
        assert row.started_at is not None
        assert moment.change.now - row.started_at > timedelta(seconds=1e9), "a lease ran out"
        return rightly(graph, moment, key, fence)

    monkeypatch.setattr(losses, "lose", strictly)

    assert "a lease ran out" in found_out(World)


def thawed(world_class: type[World]) -> World:
    """A worker stands still for longer than its lease and goes on after a sweeper took it, which then died."""
    world = world_class("thawed")
    worker, sweeper = world.hire(1), world.caller
    world.start(new_run(draw("a"), "run"), lambda *what: Reply("done", seconds=100.0))
    world.run_for(1.0)
    worker.frozen_until = 40.0
    world.run_for(35.0)
    assert FaultySweeps(world.store.sweeps, sweeper, world.faults, world.witness).take_expired(1)
    world.run_for(10.0)
    world.sweep()
    world.run_until_over(200.0)
    return world


def test_a_lease_that_was_taken_is_renewed_by_nobody() -> None:
    world = thawed(World)

    world.witness.settled(TENANT, "run")
    assert world.store.outputs(TENANT, "run") == {"output": "done"}
    with pytest.raises(AssertionError, match="that were taken are renewed"):
        thawed(world_with(store_class=LeaseStore))
