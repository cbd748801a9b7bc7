"""The raw Celery application that llmteam is measured against, and its client.

It has the settings of llmteam's own application, with two differences that a plain user of Celery needs: tasks store
their results, and messages are acknowledged (``BENCH_RAW_ACKS=0`` leaves even that out).
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from typing import Any

from celery import Celery, chain, chord
from celery.exceptions import TimeoutError as ResultTimeoutError
from celery.states import SUCCESS
from kombu import Queue

from llmteam.dispatch import celery_app
from llmteam.settings import Settings

#: Variables that tell the worker process what the bench decided.
BROKER, CONNECTIONS, ACKS = "BENCH_RAW_BROKER", "BENCH_RAW_CONNECTIONS", "BENCH_RAW_ACKS"
QUEUE = "bench.raw"
_GET_SECONDS = 120


def make_app(broker_url: str, *, connections: int = 100, acks: bool = True) -> Celery:
    """The application; every thread of its worker may hold a connection, or Celery would fail tasks for want of one."""
    app = celery_app(Settings(broker_url=broker_url), name="bench.raw")
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "max_connections": connections}
    app.conf.update(
        task_ignore_result=False,
        task_queues=[Queue(QUEUE, no_ack=not acks)],
        task_default_queue=QUEUE,
        task_routes={},
        redis_max_connections=connections,
    )
    app.task(noop, name="bench.noop")
    app.task(wait, name="bench.wait")
    return app


def noop(value: Any = None) -> Any:
    """Nothing."""
    return 1


def wait(seconds: float) -> int:
    """What a call to a model looks like from here."""
    time.sleep(seconds)
    return 1


def worker_app() -> Celery:
    """The application of a worker process, as the variables say."""
    environment = os.environ
    return make_app(
        environment[BROKER], connections=int(environment[CONNECTIONS]), acks=environment.get(ACKS, "1") == "1"
    )


class RawCelery:
    """A user of plain Celery: sends a canvas, then asks for its result."""

    name = "raw Celery"

    def __init__(self, app: Celery) -> None:
        self._app = app

    def start_chain(self, length: int) -> Any:
        task = self._app.tasks["bench.noop"]
        return chain(*[task.s() for _ in range(length)]).apply_async()

    def start_fan(self, width: int) -> Any:
        task = self._app.tasks["bench.noop"]
        return chord([task.s() for _ in range(width)])(task.s())

    def start_wait(self, seconds: float) -> Any:
        return self._app.tasks["bench.wait"].apply_async((seconds,))

    def finish(self, started: Sequence[Any]) -> None:
        for result in started:
            self._await(result)

    def _await(self, result: Any) -> None:
        """Celery's client now and then misses that a result is there; like llmteam's, this one looks each second."""
        for _ in range(_GET_SECONDS):
            try:
                result.get(timeout=1)
                return
            except ResultTimeoutError:
                if self._app.backend.get_task_meta(result.id)["status"] == SUCCESS:
                    return
        raise AssertionError(f"task {result.id} is {result.state} after {_GET_SECONDS} s")

    def close(self) -> None:
        """Let go, while the servers are there: a result that is collected later would look for them."""
        gc.collect()
        self._app.close()


if BROKER in os.environ:
    app = worker_app()
