"""Fairness between tenants: how many steps of one stand before a step of another. Counted, with a broker stand-in."""

from __future__ import annotations

from collections import deque

import pytest

from llmteam.lanes import AHEAD, LOOK_SECONDS, Lanes

QUEUE = "q"
#: A hint of the stand-in: tenant, run and step.
Message = tuple[str, int, int]


class Broker:
    """A queue of two lanes, and a clock that each look moves."""

    def __init__(self) -> None:
        self.ahead: deque[Message] = deque()
        self.behind: deque[Message] = deque()
        self.now = 0.0
        self.looks = 0

    def depth(self, queue: str) -> int:
        self.looks += 1
        return len(self.ahead)

    def send(self, lanes: Lanes, *messages: Message) -> None:
        for message, behind in zip(messages, lanes.behind([(one[0], QUEUE) for one in messages]), strict=True):
            (self.behind if behind else self.ahead).append(message)

    def take(self) -> Message:
        self.now += 0.01
        return (self.ahead or self.behind).popleft()

    def lanes(self) -> Lanes:
        return Lanes(self.depth, monotonic=lambda: self.now)


def steps_before_the_end_of_one_run(starters: int, workers: int, *, at_once: bool, steps: int = 3) -> int:
    """Steps of ``heavy`` that are done between the start and the end of light's one run.

    ``heavy`` has 10,000 runs, started from so many processes one by one or in batches; workers take turns.
    """
    broker = Broker()
    clients = [broker.lanes() for _ in range(starters)]
    fleet = [broker.lanes() for _ in range(workers)]
    runs = [("heavy", number, 0) for number in range(10_000)]
    for client in range(starters):
        mine = runs[client::starters]
        if at_once:
            broker.send(clients[client], *mine)
        else:
            for message in mine:
                broker.now += LOOK_SECONDS
                broker.send(clients[client], message)
    for turn in range(500):
        _work(broker, fleet[turn % workers], steps)
    broker.send(clients[0], ("light", 0, 0))
    done = 0
    for turn in range(100_000):
        tenant_id, _, step = _work(broker, fleet[turn % workers], steps)
        if tenant_id == "light" and step == steps - 1:
            return done
        done += tenant_id == "heavy"
    raise AssertionError("light's run never ended")


def _work(broker: Broker, lanes: Lanes, steps: int) -> Message:
    tenant_id, run, step = broker.take()
    if step + 1 < steps:
        broker.send(lanes, (tenant_id, run, step + 1))
    return tenant_id, run, step


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("starters", "workers"), [(1, 1), (1, 4), (3, 2)])
def test_ten_thousand_runs_of_one_tenant_delay_anothers_run_by_a_few_steps(
    starters: int, workers: int, at_once: bool
) -> None:
    done = steps_before_the_end_of_one_run(starters, workers, at_once=at_once)

    assert done <= 3 * AHEAD * (starters + workers), "each step waits at most for what each process may let lie ahead"


def test_without_lanes_it_would_be_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmteam.lanes.AHEAD", 10**9)

    assert steps_before_the_end_of_one_run(1, 1, at_once=True) > 10_000


def test_nobody_is_asked_for_a_tenant_that_sends_little_and_once_for_many_that_are_served() -> None:
    broker = Broker()
    lanes = broker.lanes()

    for number in range(AHEAD):
        broker.send(lanes, ("light", number, 0))
    assert broker.looks == 0
    broker.ahead.clear()
    for number in range(10 * AHEAD):
        broker.send(lanes, ("light", number, 0))
        broker.take()

    assert not broker.behind
    assert broker.looks <= 10


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_no_more_than_its_share_ever_lies_ahead(size: int) -> None:
    broker = Broker()
    lanes = broker.lanes()

    for start in range(0, 3_000, size):
        broker.send(lanes, *(("heavy", number, 0) for number in range(start, start + size)))
        broker.send(lanes, ("other", start, 0))
        assert sum(tenant_id == "heavy" for tenant_id, _, _ in broker.ahead) <= AHEAD
        for _ in range(size // 2):
            broker.take()


def test_a_broker_of_which_nothing_is_known_has_one_lane() -> None:
    lanes = Lanes(lambda queue: None)

    assert lanes.behind([("heavy", QUEUE)] * 1_000) == [False] * 1_000
