"""What the broker and Celery's remote control say about workers and queues."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmteam.dispatch import celery_app, depth, is_ours, queues_in
from llmteam.errors import InfrastructureError
from llmteam.settings import Settings, mask_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

    from llmteam.tasks.notices import Notice

#: Seconds in which workers answer.
ANSWER_SECONDS = 1.0
#: Seconds in which a worker with free places takes a message that waits.
LISTEN_SECONDS = 2.0
_CONNECT_SECONDS = 3.0


@dataclass(frozen=True)
class Idler:
    """A worker with ``free`` places that takes none of the ``waiting`` messages of a queue it consumes."""

    queue: str
    waiting: int
    worker: str
    free: int


def consumers(settings: Settings) -> dict[str, list[str]]:
    """The queues that each living worker of the broker consumes, by its name. Raises :class:`InfrastructureError`.

    Takes :data:`ANSWER_SECONDS`, because nobody knows how many will answer.
    """
    with _reached(settings) as (app, connection):
        inspect = app.control.inspect(timeout=ANSWER_SECONDS, connection=connection)
        answers: dict[str, list[dict[str, Any]]] = inspect.active_queues() or {}
        return {worker: [queue["name"] for queue in queues] for worker, queues in sorted(answers.items())}


def consumed_by(settings: Settings, workers: Sequence[str]) -> set[str]:
    """The queues that these workers of this machine consume, each named without the machine.

    Takes as long as the last of them takes to answer, at most :data:`ANSWER_SECONDS`. Raises
    :class:`InfrastructureError`.
    """
    from celery.utils.nodenames import host_format

    names = [host_format(f"{worker}@%h") for worker in workers]
    with _reached(settings) as (app, connection):
        inspect = app.control.inspect(names, timeout=ANSWER_SECONDS, connection=connection)
        answers: dict[str, list[dict[str, Any]]] = inspect.active_queues() or {}
    return {queue["name"] for queues in answers.values() for queue in queues}


def depths(settings: Settings, queues: Iterable[str] = ()) -> dict[str, int]:
    """How many messages wait in each of our region's queues, and in these. Raises :class:`InfrastructureError`."""
    with _reached(settings) as (_, connection):
        asked = dict.fromkeys((*queues_in(settings.region), *queues))
        return {queue: depth(connection, queue) for queue in asked}


def idlers(settings: Settings, serving: Mapping[str, Sequence[str]]) -> list[Idler]:
    """Workers that receive nothing for a while although messages wait for them and they have places free.

    ``serving`` are the queues of each worker. Raises :class:`InfrastructureError`. Takes :data:`LISTEN_SECONDS` and
    twice as long as workers take to answer.
    """
    with _reached(settings) as (app, connection):
        workers = sorted(worker for worker, queues in serving.items() if any(map(is_ours, queues)))
        before = _received(app, connection, workers)
        ours = {queue for queues in serving.values() for queue in queues if is_ours(queue)}
        waiting = {queue: depth(connection, queue) for queue in ours}
        time.sleep(LISTEN_SECONDS)
        after = _received(app, connection, workers)
        waiting = {queue: min(count, depth(connection, queue)) for queue, count in waiting.items()}
    found = []
    for worker in sorted(before.keys() & after.keys()):
        free = min(before[worker]["free"], after[worker]["free"])
        if free > 0 and before[worker]["received"] == after[worker]["received"]:
            found += [Idler(queue, waiting[queue], worker, free) for queue in serving[worker] if waiting.get(queue)]
    return found


def _received(app: Celery, connection: Any, workers: list[str]) -> dict[str, dict[str, int]]:
    from llmteam.tasks.watchdog import RECEIVING

    answers = app.control.broadcast(
        RECEIVING, destination=workers, reply=True, timeout=ANSWER_SECONDS, connection=connection
    )
    return {worker: said for answer in answers or () for worker, said in answer.items() if "free" in said}


def deaf_notices(settings: Settings) -> list[Notice]:
    """What watchdogs wrote lately about workers that went deaf. Raises :class:`InfrastructureError`."""
    from llmteam.tasks import notices

    with _reached(settings) as (_, connection):
        if connection.transport.driver_type != "redis":
            return []
        return notices.read(connection.default_channel.client)


def check_broker(settings: Settings) -> None:
    """Raise :class:`InfrastructureError` unless the broker answers."""
    with _reached(settings):
        pass


def counts_chords(settings: Settings) -> bool:
    """Whether the result backend can tell when all parts of a chord are done; it is reached for that."""
    app = celery_app(settings)
    backend = app.backend
    if not getattr(backend, "supports_native_join", False):
        return False
    try:
        backend.client.ping()
    except Exception as exc:
        shown = f"{mask_url(settings.result_backend or '')} (LLMTEAM_RESULT_BACKEND)"
        raise InfrastructureError(f"the result backend {shown} cannot be reached: {_first(exc)}") from exc
    return True


@contextmanager
def _reached(settings: Settings) -> Iterator[tuple[Celery, Any]]:
    from celery.exceptions import OperationalError

    app = celery_app(settings)
    connection = app.connection_for_read(connect_timeout=_CONNECT_SECONDS)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=_CONNECT_SECONDS)
        # The transport of Redis connects on first use only.
        if connection.transport.driver_type == "redis":
            connection.default_channel.client.ping()
        yield app, connection
    except (OperationalError, *connection.connection_errors, *connection.channel_errors) as exc:
        raise InfrastructureError(
            f"the broker {mask_url(settings.broker_url or '')} (LLMTEAM_BROKER_URL) cannot be reached: {_first(exc)}"
        ) from exc
    finally:
        connection.release()


def _first(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
