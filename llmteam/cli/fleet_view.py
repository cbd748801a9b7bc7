"""What the broker and Celery's remote control say about workers and queues."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmteam.dispatch import QUEUES, celery_app
from llmteam.errors import InfrastructureError
from llmteam.settings import Settings, mask_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

#: Seconds in which workers answer.
ANSWER_SECONDS = 1.0
_CONNECT_SECONDS = 3.0


def consumers(settings: Settings) -> dict[str, list[str]]:
    """The queues that each living worker of the broker consumes, by its name. Raises :class:`InfrastructureError`.

    Takes :data:`ANSWER_SECONDS`, because nobody knows how many will answer.
    """
    with _reached(settings) as (app, connection):
        inspect = app.control.inspect(timeout=ANSWER_SECONDS, connection=connection)
        answers: dict[str, list[dict[str, Any]]] = inspect.active_queues() or {}
        return {worker: [queue["name"] for queue in queues] for worker, queues in sorted(answers.items())}


def depths(settings: Settings) -> dict[str, int]:
    """How many messages wait in each of our queues. Raises :class:`InfrastructureError`."""
    with _reached(settings) as (_, connection):
        return {queue: _depth(connection, queue) for queue in QUEUES}


def _depth(connection: Any, queue: str) -> int:
    channel = connection.default_channel
    try:
        count: int = channel.queue_declare(queue, passive=True).message_count
    except connection.channel_errors:
        # Redis forgets a list that is empty.
        return 0
    return count


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
