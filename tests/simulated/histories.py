"""One history by a seed: some runs, some workers, for a while everything that can go wrong, and then nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from llmteam.canvas.graph import Graph
from llmteam.canvas.records import NewRun
from llmteam.canvas.state import Key, SegmentStatus, StepState
from llmteam.events.models import EventType
from tests.conformance.desk import new_run
from tests.simulated.actors import LEASE_SECONDS, SWEEP_SECONDS, Caller
from tests.simulated.faults import Rates
from tests.simulated.replies import STEP_TIMEOUT, Reference, Replies, policy
from tests.simulated.shapes import SHAPES, shape
from tests.simulated.witness import Story
from tests.simulated.world import TENANT, World

#: The longest a ready step may lie between two hints of a sweep, in seconds.
_BACK_OFF = 300.0
_INPUT = {"order": 17}


@dataclass
class Subject:
    """A run of a history, with all that its end is compared with."""

    run: NewRun
    graph: Graph
    replies: Replies
    retries: int
    delay: float
    deadline: float | None

    @property
    def run_id(self) -> str:
        return self.run.run_id


@dataclass
class History:
    """What came of one seed. ``compared`` are the runs that ended as the state machine alone says."""

    world: World
    subjects: list[Subject]
    compared: list[str] = field(default_factory=list)


def play(seed: int, world_class: type[World] = World) -> History:
    """Play the history of ``seed`` to its end. Raises ``AssertionError`` when a promise is broken."""
    chance = Random(f"history {seed}")
    world = world_class(seed, Rates.draw(chance))
    history = History(world, [])
    for number in range(chance.choice((1, 1, 2, 3))):
        subject = _subject(chance, f"run-{number}")
        history.subjects.append(subject)
        world.start(subject.run, subject.replies, after=chance.choice((0.0, 0.0, 10.0)))
        _meddle(world, chance, subject)
    for _ in range(chance.choice((1, 2, 2, 3))):
        world.hire(chance.choice((1, 2, 4)))
    world.hire(1, apart=True)
    for _ in range(chance.choice((1, 1, 2))):
        world.sweep()
    for _ in range(chance.choice((1, 1, 2))):
        world.employ()
    _plague(world, chance)
    world.run_for(chance.choice((10.0, 40.0, 90.0, 150.0)))
    world.heal()
    world.run_until_over(_bound(history))
    _check(history)
    return history


def _subject(chance: Random, run_id: str) -> Subject:
    definition, graph = shape(chance.randrange(SHAPES))
    retries, delay = chance.randint(0, 3), chance.choice((0.0, 1.0, 4.0))
    timeout = chance.choice((None, None, None, 20.0, 120.0))
    replies = Replies(
        chance.randrange(2**32),
        chance.choice((0.0, 0.1, 0.3)),
        chance.choice((0.0, 0.0, 0.1)),
        chance.choice((0.0, 0.0, 0.3)),
    )
    options = {"max_retries": retries, "retry_delay": delay, "timeout_seconds": timeout, "step_timeout": STEP_TIMEOUT}
    run = new_run(definition, run_id, input_text='{"order":17}', **options)
    return Subject(run, graph, replies, retries, delay, timeout)


def _meddle(world: World, chance: Random, subject: Subject) -> None:
    """Somebody pauses, resumes, cancels, retries or forks the run, at random moments."""
    run_id = subject.run_id
    for number in range(chance.choice((0, 0, 0, 1, 2, 4))):
        caller = Caller(world, f"caller {run_id}/{number}")
        grace, made = chance.choice((0.0, 5.0, 30.0)), f"{run_id}-again-{number}"
        step = chance.choice(list(subject.graph.nodes))
        world.replies[made] = replace(subject.replies, seed=chance.randrange(2**32))
        actions: dict[str, Callable[[Caller], object]] = {
            "pause": lambda c, grace=grace: c.surgery.pause(TENANT, run_id, grace),
            "hold": lambda c: c.surgery.take_hold(TENANT, run_id),
            "resume": lambda c: c.surgery.resume(TENANT, run_id),
            "retry": lambda c, made=made: c.surgery.retry(TENANT, run_id, new_run_id=made),
            "fork": lambda c, made=made, step=step: c.surgery.fork(TENANT, run_id, step, new_run_id=made),
        }
        action = actions[chance.choice(("pause", "pause", "hold", "resume", "resume", "retry", "retry", "fork"))]
        world.schedule.at(chance.uniform(0.0, 120.0), lambda c=caller, a=action: c.attempt(lambda: a(c)))
        if chance.random() < 0.1:
            world.schedule.at(chance.uniform(0.0, 100.0), lambda c=caller: c.cancel(TENANT, run_id))


def _plague(world: World, chance: Random) -> None:
    """Processes are killed, frozen and shut down, the broker is flushed, sweeps stop: as often as the rates say."""
    rates, worker = world.faults.rates, lambda: chance.choice(world.workers)

    def freeze() -> None:
        one, until = (
            chance.choice([*world.workers, *world.beats]),
            chance.choice((3.0, 20.0, chance.uniform(28.0, 45.0))),
        )
        one.frozen_until = max(one.frozen_until, world.schedule.now + until)

    def deafen() -> None:
        one = worker()
        one.deaf = True
        world.schedule.after(30.0, lambda: setattr(one, "deaf", False))

    def stop_sweeping() -> None:
        until = world.schedule.now + chance.choice((20.0, 60.0))
        for beat in world.beats:
            beat.idle_until = until

    def shut_down() -> None:
        one = worker()
        if world.schedule.now >= one.frozen_until:
            one.act(one.shut_down)

    happenings: tuple[tuple[float, Callable[[], None]], ...] = (
        (rates.kill, lambda: worker().die()),
        (rates.freeze, freeze),
        (rates.shutdown, shut_down),
        (rates.flush, world.broker.flush),
        (rates.deaf, deafen),
        (rates.no_sweep, stop_sweeping),
    )
    for rate, happening in happenings:
        moment = chance.expovariate(rate / 60) if rate else 1e9
        while moment < 150.0:
            world.schedule.at(moment, lambda h=happening: world.faults.on and h())
            moment += chance.expovariate(rate / 60)


def _bound(history: History) -> float:
    """Seconds within which everything ends, once nothing goes wrong any more."""
    recovery = _BACK_OFF + LEASE_SECONDS + 4 * SWEEP_SECONDS + 30.0
    return recovery + max(_longest(subject) for subject in history.subjects)


def _longest(subject: Subject) -> float:
    rounds = len(subject.graph.nodes) * (subject.graph.max_visits if subject.graph.loops else 1)
    return rounds * (subject.retries + 1) * (STEP_TIMEOUT + 10.0)


# -- at the end


def _check(history: History) -> None:
    world = history.world
    for run_id in world.known():
        world.witness.settled(TENANT, run_id)
        world.witness.nobody_is_asked(TENANT, run_id)
        world.witness.recorded(TENANT, run_id)
    for subject in history.subjects:
        if _is_comparable(world, subject):
            _compare(world, subject)
            history.compared.append(subject.run_id)


def made_of_others(world: World) -> list[str]:
    """Runs that retries and forks made."""
    asked = {run.run_id for run in world.runs}
    return [run_id for run_id in world.known() if run_id not in asked]


def _is_comparable(world: World, subject: Subject) -> bool:
    """Whether nothing took part in the outcome but the handlers."""
    run_id, story = subject.run_id, world.witness.stories[subject.run_id]
    status = world.status(run_id)
    if status is SegmentStatus.CANCELLED:
        assert run_id in world.cancelled, f"{run_id} was cancelled by nobody"
        return False
    run = world.witness.run(TENANT, run_id)
    assert run is not None
    if status is SegmentStatus.TIMEOUT:
        assert run.state.deadline is not None
        assert run.state.finished_at is not None
        assert run.state.finished_at >= run.state.deadline
        return False
    if any(node.fires_early for node in subject.graph.nodes.values()):
        return False
    return not any(_is_accident(subject, story, key) for key in story.claims)


def _is_accident(subject: Subject, story: Story, key: Key) -> bool:
    """Whether a step lost its workers, was late because one stood still, or hung while nobody watched its deadline."""
    told = story.errors.get(key, [])
    hung = [subject.replies(subject.graph.nodes[key[0]], key, attempt, None).hangs for attempt in range(len(told) + 1)]
    late = [error == "StepTimeoutError" for error in told]
    unnoticed = story.over[key] is StepState.COMPLETED and hung[-1]
    too_late = "HumanTaskTimeoutError" in told
    return "WorkerLostError" in told or too_late or unnoticed or late != hung[:-1]


def _compare(world: World, subject: Subject) -> None:
    alone = Reference(subject.graph, subject.replies, policy(subject.retries, subject.delay), _INPUT).finished()
    run_id, run = subject.run_id, world.witness.run(TENANT, subject.run_id)
    assert run is not None
    assert run.state.status is alone.status, f"{run_id} is {run.state.status} instead of {alone.status}"
    if alone.status is not SegmentStatus.COMPLETED:
        return
    states = {key: row.state for key, row in run.rows.items()}
    assert states == alone.states(), f"{run_id} went another way"
    assert world.store.outputs(TENANT, run_id) == alone.results(), f"{run_id} has other outputs"
    story = world.witness.stories[run_id]
    done = {key for key, state in states.items() if state is StepState.COMPLETED}
    assert {key for kind, key in story.told if kind == EventType.STEP_COMPLETED} == done
