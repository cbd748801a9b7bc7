"""What open steps wait for, since when, until when and what then, as sentences: one kind per state and owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from llmteam.canvas.awaited import MOVING_FIRST
from llmteam.canvas.explain_limits import delayed_by, delayed_since, says_delayed
from llmteam.canvas.explain_people import says_asked, says_frozen
from llmteam.canvas.explain_picture import (
    FleetView,
    Picture,
    Steps,
    first_of,
    name_of,
    quarantine_of,
    queue_of,
    says_late_sweep,
)
from llmteam.canvas.phrases import FEW, count, length, listed, span, times
from llmteam.canvas.records import StepRecord
from llmteam.canvas.state import (
    QUARANTINE_AFTER,
    QUARANTINE_LOSSES,
    Key,
    Owner,
    SegmentStatus,
    StepRow,
    StepState,
)

#: Losses at which a step has failed that takes its workers with it.
MOST_LOSSES = QUARANTINE_AFTER + QUARANTINE_LOSSES


@dataclass(frozen=True, slots=True)
class Kind:
    """How steps of one state and owner are explained.

    Those with equal ``alike`` are told together; where that gives too many groups, those with equal ``akin``.
    """

    alike: Callable[[Picture, StepRecord], Hashable]
    akin: Callable[[Picture, StepRecord], Hashable]
    since: Callable[[Picture, StepRow], datetime | None]
    says: Callable[[Picture, Steps], Iterable[str]]


def kind_of(row: StepRow) -> Kind:
    """The kind that an open step is of; what no rule allows has one too."""
    return _KINDS.get((row.state, row.owner), _UNFIT)


def _first(picture: Picture, steps: Steps, when: Callable[[StepRecord], datetime | None]) -> str:
    """The earliest of the steps' moments; of several it is said that it is."""
    found = [known for step in steps if (known := when(step)) is not None]
    if not found:
        return "an unknown time"
    return picture.at(min(found)) + (" at the earliest" if len(set(found)) > 1 else "")


# -- inputs


def _needs(picture: Picture, step: StepRecord) -> Hashable:
    return (frozenset(picture.awaited.of(step.row)), picture.graph.nodes[step.row.step_id].fires_early)


def _distance(picture: Picture, step: StepRecord) -> Hashable:
    """Joins stand apart, and so do steps right behind those that move from steps further down."""
    needs = _most_advanced(picture, step.row)
    early = picture.graph.nodes[step.row.step_id].fires_early
    return (min(len(needs), 2), early, _state(picture, needs[0]) if needs else None)


def _pending_since(picture: Picture, row: StepRow) -> datetime | None:
    loop = picture.graph.nodes[row.step_id].loop
    header = None if loop is None or row.visit == 1 else picture.rows.get((loop.header, row.visit))
    return picture.record.started_at if header is None else header.ready_at


def _says_inputs(picture: Picture, steps: Steps) -> Iterator[str]:
    needs = [_most_advanced(picture, step.row) for step in steps]
    if not all(needs):
        yield "Nothing is left to wait for, and yet not ready: `llmteam explain --check` looks for what is wrong."
        return
    if any(keys != needs[0] for keys in needs):
        pairs = [f"{name_of(s.row.key)} for {_shown(picture, k[0])}" for s, k in zip(steps[:FEW], needs, strict=False)]
        yield f"Each waits for others: {', '.join(pairs)}, and so on."
    else:
        yield _says_needs(picture, needs[0])
    if all(picture.graph.nodes[step.row.step_id].fires_early for step in steps):
        yield "Then: ready as soon as one branch arrives, skipped when none does."
    else:
        yield "Then: ready when all edges into it are decided and one is followed, skipped when none is."


def _says_needs(picture: Picture, keys: Sequence[Key]) -> str:
    states = Counter(_state(picture, key) for key in keys)
    if len(states) == 1 and len(keys) > 1:
        return f"Waiting for {len(keys):,} {_state(picture, keys[0]).value} steps: {listed([*map(name_of, keys)])}."
    tally = ", ".join(f"{number:,} {state.value}" for state, number in states.items())
    many = f"{len(keys):,} steps ({tally}): " if len(keys) > FEW + 1 else ""
    return f"Waiting for {many}{listed([_shown(picture, key) for key in keys])}."


def _most_advanced(picture: Picture, row: StepRow) -> list[Key]:
    """What a step waits for, that which moves first."""
    keys = dict.fromkeys(picture.awaited.of(row))
    return sorted(keys, key=lambda key: MOVING_FIRST.index(_state(picture, key)))


def _state(picture: Picture, key: Key) -> StepState:
    row = picture.rows.get(key)
    return StepState.PENDING if row is None else row.state


def _shown(picture: Picture, key: Key) -> str:
    return f"{name_of(key)} ({_state(picture, key).value})"


# -- a queue


def _says_queue(picture: Picture, steps: Steps) -> Iterator[str]:
    queue = queue_of(steps[0])
    yield f"In the queue {queue} since {_first(picture, steps, lambda step: step.row.ready_at)}."
    yield from _says_who_consumes(picture.fleet, queue)
    if picture.record.status is SegmentStatus.PAUSING:
        yield "The run is pausing, so that nothing more of it is begun."
        return
    hints = [step.hints for step in steps]
    again = f", and {span(hints)} more by sweeps" if any(hints) else ""
    yield f"A message was sent for {'it' if len(steps) == 1 else 'each'} then{again}."
    yield from _says_hint(picture, steps)


def _says_who_consumes(fleet: FleetView, queue: str) -> Iterator[str]:
    if fleet.fault is not None:
        yield f"Whether any worker consumes {queue} is not known: {fleet.fault}."
    elif fleet.workers is not None:
        workers, depth = fleet.workers.get(queue, 0), (fleet.depths or {}).get(queue, 0)
        lying = f"{count(depth, 'message')} {'lies' if depth == 1 else 'lie'} in it" if depth else "it is empty"
        if workers:
            yield f"{count(workers, 'worker')} {'consumes' if workers == 1 else 'consume'} it, and {lying}."
        else:
            yield f"No worker consumes it, and {lying}: start one with `llmteam worker`."


def _says_hint(picture: Picture, steps: Steps) -> Iterator[str]:
    """When the next sweep sends a message, and whether sweeps come at all."""
    wake_at = first_of(step.row.wake_at for step in steps)
    if wake_at is None:
        yield "No sweep will look at it: `llmteam explain --check` tells what is wrong."
        return
    when = _first(picture, steps, lambda step: step.row.wake_at)
    fleet, queue = picture.fleet, queue_of(steps[0])
    if (fleet.workers or {}).get(queue) and (fleet.depths or {}).get(queue, 0) > fleet.hint_depth:
        yield f"Sweeps send no more while over {fleet.hint_depth:,} messages lie there and are worked off."
    elif wake_at > picture.now:
        yield f"Until a worker takes it up, sweeps send others, the next at {when}."
    else:
        yield f"A sweep was to send another at {when}."
        yield from says_late_sweep(picture, "due")


# -- the next attempt


def _retried(picture: Picture, step: StepRecord) -> Hashable:
    row = step.row
    return (queue_of(step), row.attempt, picture.attempts(row), row.losses, row.error and row.error.error_type)


def _says_retry(picture: Picture, steps: Steps) -> Iterator[str]:
    rows = [step.row for step in steps]
    when = _first(picture, steps, lambda step: step.row.wake_at)
    errors = Counter(row.error.error_type for row in rows if row.error is not None)
    if not errors:
        yield f"Waiting for its time, {when}."
    else:
        tries = span(row.attempt for row in rows)
        most = span(picture.attempts(row) for row in rows)
        kinds = listed([kind for kind, _ in errors.most_common()])
        yield f"Attempt {tries} of {most} failed with {kinds}. The next one is due at {when}."
    yield from _says_losses(rows)
    queue = queue_of(steps[0])
    yield f"Then: into the queue {queue}; when no attempt is left, the step fails."
    yield from _says_who_consumes(picture.fleet, queue)
    if (first_of(row.wake_at for row in rows) or picture.now) < picture.now:
        yield from says_late_sweep(picture, "due")


def _says_losses(rows: Sequence[StepRow]) -> Iterator[str]:
    losses = [row.losses for row in rows]
    if any(losses):
        yield f"Its worker was lost {times(losses)}; at {MOST_LOSSES} it fails with WorkerLostError."


# -- a lease


def _held(picture: Picture, step: StepRecord) -> Hashable:
    row = step.row
    return (step.holder, row.attempt, picture.attempts(row), row.losses, _ran_out(picture, step))


def _ran_out(picture: Picture, step: StepRecord) -> bool:
    """A sweep takes the lease away before it takes the step back."""
    return step.lease_until is None or step.lease_until <= picture.now


def _says_lease(picture: Picture, steps: Steps) -> Iterator[str]:
    rows = [step.row for step in steps]
    holders = listed(list(dict.fromkeys(step.holder or "nobody" for step in steps)))
    tries, most = span(row.attempt + 1 for row in rows), span(picture.attempts(row) for row in rows)
    began = _first(picture, steps, lambda step: step.row.started_at)
    yield f"Attempt {tries} of {most} runs on {holders} since {began}."
    yield from _says_losses(rows)
    again = f"starts again in the queue {_queue_after_loss(steps)}; no attempt is used up"
    if max(row.losses for row in rows) + 1 >= MOST_LOSSES:
        again = f"fails with WorkerLostError, since that is loss {MOST_LOSSES}"
    if _ran_out(picture, steps[0]):
        known = any(step.lease_until is not None for step in steps)
        when = f" at {_first(picture, steps, lambda step: step.lease_until)}" if known else ""
        yield f"The lease ran out{when}: the worker is gone or cut off."
        yield f"A sweep takes it back, and the step {again}."
        yield from says_late_sweep(picture, "expired")
    else:
        until = _first(picture, steps, lambda step: step.lease_until)
        yield f"The lease lasts until {until}; a living worker renews it."
        yield f"If none does, the step {again}."
    if any(row.deadline is not None for row in rows):
        deadline = _first(picture, steps, lambda step: step.row.deadline)
        yield f"The attempt has time until {deadline}; then it counts as failed with StepTimeoutError."


def _queue_after_loss(steps: Steps) -> str:
    lost = {s.row.key: s.row.losses + 1 >= QUARANTINE_AFTER for s in steps}
    return listed(list(dict.fromkeys(quarantine_of(s) if lost[s.row.key] else s.queue for s in steps)))


# -- a person, a limit, a timer, a pause


def _says_waiting(who: str, then: str) -> Callable[[Picture, Steps], Iterator[str]]:
    def says(picture: Picture, steps: Steps) -> Iterator[str]:
        since = _first(picture, steps, lambda step: step.row.started_at)
        until = first_of(step.row.wake_at for step in steps)
        yield f"Waiting for {who} since {since}."
        if until is not None:
            yield f"At {_first(picture, steps, lambda step: step.row.wake_at)} {then}."
            if until < picture.now:
                yield from says_late_sweep(picture, "due")

    return says


def _says_person(picture: Picture, steps: Steps) -> Iterator[str]:
    yield from says_asked(picture, steps)
    if (first_of(step.row.wake_at for step in steps) or picture.now) < picture.now:
        yield from says_late_sweep(picture, "due")


def _held_from(picture: Picture, step: StepRecord) -> Hashable:
    return (step.held_owner, step.row.state, step.held_wake_at is None)


def _paused_since(picture: Picture, row: StepRow) -> datetime | None:
    record = picture.record
    return record.created_at if record.status is SegmentStatus.PENDING else record.paused_at


def _says_pause(picture: Picture, steps: Steps) -> Iterator[str]:
    if picture.record.status is SegmentStatus.PENDING:
        yield "Begins when its run does."
        return
    yield "Held by the pause of its run: its time stands still and nothing wakes it."
    ends, paused_at = first_of(step.held_wake_at for step in steps), picture.record.paused_at
    before = _BEFORE.get(steps[0].held_owner or "queue", "it waited")
    left = ""
    if steps[0].held_owner not in (None, "queue") and ends is not None and paused_at is not None and ends > paused_at:
        left = f", with {length((ends - paused_at).total_seconds())} left"
    yield f"Before, {before}{left}. Then: `llmteam runs resume {picture.record.run_id}` lets it go on there."
    yield from says_frozen(picture, steps)


_BEFORE = {
    "queue": "it was ready, or ran and begins again",
    "timer": "it waited for its time",
    "person": "it waited for a person's answer",
    "limit": "it waited for room under a limit",
}


def _says_unfit(picture: Picture, steps: Steps) -> Iterator[str]:
    row = steps[0].row
    yield f"No rule lets a step that is {row.state.value} wait for {row.owner or 'nobody'}: `llmteam explain --check`."


def _itself(picture: Picture, step: StepRecord) -> Hashable:
    return step.row.key


def _one_kind(picture: Picture, step: StepRecord) -> Hashable:
    return None


def _began(picture: Picture, row: StepRow) -> datetime | None:
    return row.started_at


def _ready(picture: Picture, row: StepRow) -> datetime | None:
    return row.ready_at


def _queue(picture: Picture, step: StepRecord) -> Hashable:
    return queue_of(step)


_PAUSE = Kind(_held_from, _held_from, _paused_since, _says_pause)
_UNFIT = Kind(_one_kind, _one_kind, _ready, _says_unfit)
_KINDS: Mapping[tuple[StepState, Owner | None], Kind] = {
    (StepState.PENDING, "inputs"): Kind(_needs, _distance, _pending_since, _says_inputs),
    (StepState.READY, "queue"): Kind(_queue, _queue, _ready, _says_queue),
    (StepState.READY, "timer"): Kind(_retried, _queue, _began, _says_retry),
    (StepState.READY, "pause"): _PAUSE,
    (StepState.RUNNING, "lease"): Kind(_held, _ran_out, _began, _says_lease),
    (StepState.WAITING, "person"): Kind(_itself, _one_kind, _began, _says_person),
    (StepState.WAITING, "limit"): Kind(delayed_by, _one_kind, delayed_since, says_delayed),
    (StepState.WAITING, "timer"): Kind(_one_kind, _one_kind, _began, _says_waiting("its timer", "it is ready again")),
    (StepState.WAITING, "pause"): _PAUSE,
}
