"""One circuit for all processes: what one of them sees, the next call of every other knows."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from llmteam.ids import new_id
from llmteam.ratelimit.circuits.redis import PREFIX, RedisCircuitBackend
from llmteam.ratelimit.decisions import LimitKey, Outcome
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState
from tests.embedding import PYTHONPATH
from tests.services import redis_client
from tests.waiting import wait_until

PROCESSES = 8
TRIALS = 3

#: A process that does as it is told, one line of JSON after the other.
PEER = """
    import json, sys, threading
    from datetime import timedelta

    import redis

    from llmteam.ids import new_id
    from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
    from llmteam.ratelimit.decisions import LimitKey, Outcome
    from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState

    url, settings = sys.argv[1], json.loads(sys.argv[2])
    settings["open_timeout"] = timedelta(seconds=settings["open_timeout"])
    config = CircuitBreakerConfig(**settings)
    counter = redis.Redis.from_url(url)
    changes = []
    backend = RedisCircuitBackend(url, on_change=changes.append)
    key = LimitKey("vendor", "acme")


    def try_many(calls, seen):
        for _ in range(calls):
            permit = backend.allow(key, config, new_id())
            if permit.admitted:
                seen.append(int(counter.incr("under-way")))
                counter.decr("under-way")
                backend.record(key, config, permit, Outcome.IGNORED)


    def storm(calls, threads):
        seen = []
        workers = [threading.Thread(target=try_many, args=(calls, seen)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return {"trials": len(seen), "most": max(seen, default=0), "shared": backend.backend_state().shared}


    def allow():
        permit = backend.allow(key, config, new_id())
        return {"admitted": permit.admitted, "state": permit.state, "local": permit.local}


    def fail(times):
        for _ in range(times):
            backend.record(key, config, backend.allow(key, config, new_id()), Outcome.FAILURE)
        return {"changes": len(changes)}


    for line in sys.stdin:
        told = json.loads(line)
        print(json.dumps({"allow": allow, "fail": fail, "storm": storm}[told.pop("do")](**told)), flush=True)
"""


@dataclass
class Peer:
    """One other process."""

    process: subprocess.Popen[str]

    def tell(self, do: str, **what: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def ask(self, do: str, **what: int) -> dict[str, Any]:
        self.tell(do, **what)
        return self.answer()


@contextmanager
def peers(url: str, number: int = PROCESSES, **settings: float) -> Iterator[list[Peer]]:
    """Processes that share a circuit; they end with the block."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(PEER), url, json.dumps(settings)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        yield [Peer(stack.enter_context(subprocess.Popen(command, env=PYTHONPATH, **pipes))) for _ in range(number)]


def test_what_one_process_sees_the_next_call_of_every_other_knows(clean_valkey: str) -> None:
    with peers(clean_valkey, failure_threshold=3, open_timeout=600) as [first, *others]:
        before = [peer.ask("allow") for peer in others]

        told = first.ask("fail", times=3)

        after = [peer.ask("allow") for peer in others]
    assert before == [{"admitted": True, "state": "closed", "local": False}] * (PROCESSES - 1)
    assert after == [{"admitted": False, "state": "open", "local": False}] * (PROCESSES - 1)
    assert told == {"changes": 1}


def test_failures_of_all_processes_together_open_a_circuit(clean_valkey: str) -> None:
    with peers(clean_valkey, failure_threshold=PROCESSES, open_timeout=600) as everyone:
        told = [peer.ask("fail", times=1) for peer in everyone]

        after = everyone[0].ask("allow")
    assert [change["changes"] for change in told] == [0] * (PROCESSES - 1) + [1]
    assert after["admitted"] is False


def test_trials_of_many_processes_never_exceed_their_number(clean_valkey: str) -> None:
    settings = {"failure_threshold": 1, "open_timeout": 0, "half_open_max_requests": TRIALS}

    with peers(clean_valkey, **settings) as everyone:
        everyone[0].ask("fail", times=1)
        for peer in everyone:
            peer.tell("storm", calls=100, threads=4)
        seen = [peer.answer() for peer in everyone]

    assert max(answer["most"] for answer in seen) == TRIALS
    assert all(answer["trials"] > 0 for answer in seen)
    assert {answer["shared"] for answer in seen} == {True}


def test_the_trial_of_a_killed_process_comes_back(clean_valkey: str) -> None:
    settings = {"failure_threshold": 1, "open_timeout": 0, "half_open_max_requests": 1, "trial_seconds": 2}

    with peers(clean_valkey, 2, **settings) as [holder, other]:
        holder.ask("fail", times=1)
        held = holder.ask("allow")
        refused = other.ask("allow")
        holder.process.kill()

        wait_until(lambda: other.ask("allow")["admitted"], "the place of the killed process's trial")
    assert (held["admitted"], refused["admitted"]) == (True, False)


@pytest.fixture
def backend(clean_valkey: str) -> Iterator[RedisCircuitBackend]:
    backend = RedisCircuitBackend(clean_valkey)
    yield backend
    backend.close()


CONFIG = CircuitBreakerConfig(failure_threshold=1, open_timeout=timedelta(seconds=600))


def test_more_threads_than_connections_wait_for_one(backend: RedisCircuitBackend) -> None:
    admitted: list[bool] = []

    def use() -> None:
        admitted.extend(backend.allow(LimitKey("vendor"), CONFIG, new_id()).admitted for _ in range(20))

    threads = [threading.Thread(target=use) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert admitted == [True] * 2_000
    assert backend.backend_state().shared


def test_every_circuit_has_an_end_and_one_slot_of_a_cluster(backend: RedisCircuitBackend, clean_valkey: str) -> None:
    keys = [LimitKey("vendor", "acme"), LimitKey("a:{b}", "", "c*")]

    for key in keys:
        backend.force(key, CONFIG, CircuitState.OPEN)

    with redis_client(clean_valkey) as client:
        names = sorted(client.keys("*"))
        ends = [client.ttl(name) for name in names]
    assert names == [f"{PREFIX}{{:a%3A%7Bb%7D:c%2A}}".encode(), f"{PREFIX}{{acme:vendor:}}".encode()]
    assert all(24 * 3600 <= end <= 24 * 3600 + 700 for end in ends)
    found = {key: circuit.state for key, circuit, _ in backend.circuits()}
    assert found == dict.fromkeys(keys, CircuitState.OPEN)


def test_what_is_stored_can_be_read(backend: RedisCircuitBackend) -> None:
    at_once = CircuitBreakerConfig(failure_threshold=3, open_timeout=timedelta(0))
    closed, trying = LimitKey("vendor", "acme"), LimitKey("vendor", "globex")
    for outcome in (Outcome.SUCCESS, Outcome.FAILURE):
        backend.record(closed, at_once, backend.allow(closed, at_once, "one"), outcome)
    backend.force(trying, at_once, CircuitState.OPEN)
    backend.record(trying, at_once, backend.allow(trying, at_once, "one"), Outcome.SUCCESS)
    backend.allow(trying, at_once, "two")

    found = {key: (circuit, now) for key, circuit, now in backend.circuits()}

    circuit, now = found[closed]
    assert (circuit.state, circuit.generation) == (CircuitState.CLOSED, 0)
    assert [failed for _, failed in circuit.history] == [False, True]
    assert all(moment <= now for moment, _ in circuit.history)
    circuit, now = found[trying]
    assert (circuit.state, circuit.successes) == (CircuitState.HALF_OPEN, 1)
    assert circuit.since <= now
    assert [caller for caller, end in circuit.trials if end > now] == ["two"]


def test_no_more_outcomes_are_kept_than_count(backend: RedisCircuitBackend) -> None:
    key, config = LimitKey("vendor", "acme"), CircuitBreakerConfig(failure_threshold=4, sample_size=7)

    for _ in range(50):
        backend.record(key, config, backend.allow(key, config, "one"), Outcome.SUCCESS)

    assert [len(circuit.history) for _, circuit, _ in backend.circuits()] == [7]


FORKING = """
    import os, sys
    from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
    from llmteam.ratelimit.decisions import LimitKey
    from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState

    backend, key, config = RedisCircuitBackend(sys.argv[1]), LimitKey("vendor"), CircuitBreakerConfig()
    assert backend.allow(key, config, "parent").admitted
    with backend._server._lock, backend._local._lock:
        child = os.fork()
    if child == 0:
        backend.force(key, config, CircuitState.OPEN)
        assert backend.backend_state().shared
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    assert not backend.allow(key, config, "parent").admitted, "the child's change is not seen"
    assert backend.backend_state().shared
    backend.close()
"""


def test_a_forked_child_shares_the_circuit_and_no_connection(clean_valkey: str) -> None:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(FORKING), clean_valkey]

    subprocess.run(command, env=PYTHONPATH, check=True, timeout=30)
