"""What must hold of every run after any faults, over plain rows. Each check names the runs that break it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.effects import Effects
from chaos.evidence import EventRow, Evidence, RunRow, StepRow
from chaos.shapes import Outcome

_COMPLETED, _STARTED = "step.completed", "step.started"
#: What lets a step begin once more.
_AGAIN = ("step.retrying", "step.lost", "step.released")
_JOIN = "parallel_join"
_ENDS = frozenset({"segment.completed", "segment.failed", "segment.cancelled"})
_OPEN = frozenset({"pending", "ready", "running", "waiting"})


@dataclass(frozen=True)
class Account:
    """Everything about one run that was started: how it should have ended, and what there is of it."""

    run_id: str
    expected: Outcome
    row: RunRow | None
    outputs: Any = None
    steps: Sequence[StepRow] = ()
    events: Sequence[EventRow] = ()
    effects: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    asked: int = 0


Check = Callable[[Account], Iterator[str]]


def accounts(
    expected: Mapping[str, Outcome], outputs: Mapping[str, Any], evidence: Evidence, effects: Effects
) -> list[Account]:
    """One for each run that was started, whether there is anything of it or not."""
    by_label: dict[str, dict[str, Mapping[str, int]]] = {run_id: {} for run_id in expected}
    for (label, name), keys in effects.items():
        if label in by_label:
            by_label[label][name] = keys
    return [
        Account(
            run_id,
            outcome,
            evidence.runs.get(run_id),
            outputs.get(run_id),
            evidence.steps.get(run_id, ()),
            evidence.events.get(run_id, ()),
            by_label[run_id],
            evidence.asked.get(run_id, 0),
        )
        for run_id, outcome in expected.items()
    ]


def lost(run: Account) -> Iterator[str]:
    """The run is not over, or was never written."""
    if run.row is None:
        yield "there is no such run"
    elif not run.row.over:
        waiting = [f"{_shown(step)} {step.state}" for step in run.steps if step.state in _OPEN]
        yield f"{run.row.status}; {', '.join(waiting)}"


def otherwise(run: Account) -> Iterator[str]:
    """The run ended in another way than it should."""
    if run.row is None or not run.row.over:
        return
    found = (run.row.status, run.row.error_type, run.outputs)
    wanted = (run.expected.status, run.expected.error_type, run.expected.outputs)
    if found != wanted:
        yield f"{json.dumps(found)} instead of {json.dumps(wanted)}"


def applied_twice(run: Account) -> Iterator[str]:
    """A step has two results."""
    for (step_id, visit), times in _count(run, _COMPLETED).items():
        if times > 1:
            yield f"{step_id}#{visit} completed {times} times"


def started_twice(run: Account) -> Iterator[str]:
    """A step began again although nothing ended its earlier claim: no failure, no lost lease, no hand-back."""
    yield from _started_twice(run, joins=False)


def stale(run: Account) -> Iterator[str]:
    """A result was accepted from a handler that had been called for an earlier claim."""
    started: dict[tuple[str | None, int | None], float] = {}
    for event in run.events:
        key = (event.step_id, event.visit)
        if event.event_type == _STARTED:
            started[key] = event.ts.timestamp()
        elif event.began is not None and event.began < started.get(key, 0.0):
            yield f"{event.step_id}#{event.visit} {event.event_type} by a handler of an earlier claim"


def joined_twice(run: Account) -> Iterator[str]:
    """:func:`started_twice`, of a join."""
    yield from _started_twice(run, joins=True)


def _started_twice(run: Account, *, joins: bool) -> Iterator[str]:
    started, ended = _count(run, _STARTED), _count(run, *_AGAIN)
    # What still ran when a pause took hold runs again.
    pauses = sum(event.event_type == "segment.paused" for event in run.events)
    kinds = {event.step_id: event.step_type for event in run.events}
    for step in run.steps:
        key = (step.step_id, step.visit)
        if (kinds.get(step.step_id) == _JOIN) is not joins:
            continue
        if started[key] > 1 + ended[key] + pauses or started[key] != step.fence:
            yield f"{_shown(step)} started {started[key]} times, begun again {ended[key]} times, {step.fence} claims"


def asked_twice(run: Account) -> Iterator[str]:
    """A step asked a person twice in one visit, or has two answers."""
    for kind in ("human.task_created", "human.task_completed"):
        for (step_id, visit), times in _count(run, kind).items():
            if times > 1:
                yield f"{step_id}#{visit}: {kind} {times} times"


def asked_in_vain(run: Account) -> Iterator[str]:
    """People are asked for a run that is over."""
    if run.row is not None and run.row.over and run.asked:
        yield f"{run.asked} open requests"


def log_broken(run: Account) -> Iterator[str]:
    """The events are not numbered from 1 without gaps, or do not end with the run's end."""
    numbers = [event.seq for event in run.events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"numbers {numbers}"
    if run.row is not None and run.row.next_seq != len(numbers) + 1:
        yield f"{len(numbers)} events, the next would be {run.row.next_seq}"
    ends = [event.event_type for event in run.events if event.event_type in _ENDS]
    if run.row is not None and run.row.over and (len(ends) != 1 or run.events[-1].event_type not in _ENDS):
        yield f"ends {ends}, the last event is {run.events[-1].event_type if run.events else None}"


def miscounted(run: Account) -> Iterator[str]:
    """The run's counters differ from its rows, or steps of a run that is over are open."""
    if run.row is None:
        return
    states = Counter(step.state for step in run.steps)
    # At its end a run cancels what is open; whatever the counters were, these two are zero then.
    found = {
        "open": sum(states[state] for state in _OPEN),
        "running": states["running"],
        "completed": states["completed"],
        "failed": states["failed"],
        "total": len({step.step_id for step in run.steps}),
    }
    for name, number in found.items():
        counter = getattr(run.row, name)
        if counter != number:
            yield f"{name} is {counter}, rows say {number}"


def effects_missing(run: Account) -> Iterator[str]:
    """Something that a run should have done was never done."""
    yield from sorted(run.expected.effects - set(run.effects))


def effects_unexpected(run: Account) -> Iterator[str]:
    """Something was done that no run was to do."""
    yield from sorted(set(run.effects) - run.expected.effects)


def two_keys(run: Account) -> Iterator[str]:
    """One effect came under two idempotency keys, or under none."""
    for name, keys in run.effects.items():
        if len(keys) != 1 or not all(keys):
            yield f"{name}: {len(keys)} keys" + ("" if all(keys) else ", one of them empty")


def _count(run: Account, *event_types: str) -> Counter[tuple[str | None, int | None]]:
    return Counter((event.step_id, event.visit) for event in run.events if event.event_type in event_types)


def _shown(step: StepRow) -> str:
    return f"{step.step_id}#{step.visit}"


#: What has to be zero, in the order of the table.
CHECKS: Mapping[str, Check] = {
    "lost": lost,
    "ended otherwise": otherwise,
    "results applied twice": applied_twice,
    "results of claims that were lost": stale,
    "joins fired twice": joined_twice,
    "steps started twice": started_twice,
    "people asked twice, or two answers taken": asked_twice,
    "people asked for runs that are over": asked_in_vain,
    "event logs with gaps or duplicates": log_broken,
    "runs with wrong counters or open steps": miscounted,
    "effects missing": effects_missing,
    "effects that were not to be": effects_unexpected,
    "effects with two keys": two_keys,
}


def findings(all_accounts: Sequence[Account]) -> dict[str, list[str]]:
    """What each check has found, a line each: nothing, if all is well."""
    return {
        name: [f"{run.run_id}: {words}" for run in all_accounts for words in check(run)]
        for name, check in CHECKS.items()
    }
