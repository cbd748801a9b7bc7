"""Hints: the messages that ask a worker to look at a step. They carry ids, never data, and may be lost or doubled.

This module is the only one that addresses tasks; it does so by name, so that nothing below the workers imports them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llmteam.errors import ConfigurationError, InfrastructureError
from llmteam.ids import new_id
from llmteam.lanes import Lanes
from llmteam.regions import DEFAULT_REGION, plain, queue_in, region_of
from llmteam.settings import Settings
from llmteam.variables import celery_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from kombu.entity import Queue
    from kombu.messaging import Producer

logger = logging.getLogger(__name__)

RUN_STEP = "llmteam.run_step"
START_RUN = "llmteam.start_run"

CONTROL_QUEUE = "llmteam.control"
IO_QUEUE = "llmteam.io"
LLM_QUEUE = "llmteam.llm"
DEFAULT_QUEUE = "llmteam.default"
QUARANTINE_QUEUE = "llmteam.quarantine"
#: Served by the ``threads`` worker: our own code with deadlines of its own.
THREAD_QUEUES = (CONTROL_QUEUE, IO_QUEUE, LLM_QUEUE)
#: Served by the ``prefork`` worker: users' handlers.
PROCESS_QUEUES = (DEFAULT_QUEUE, QUARANTINE_QUEUE)
QUEUES = THREAD_QUEUES + PROCESS_QUEUES


def queues_in(region: str, queues: Iterable[str] = QUEUES) -> tuple[str, ...]:
    """What a region calls these queues."""
    return tuple(queue_in(queue, region) for queue in queues)


def quarantine_beside(queue: str) -> str:
    """The quarantine of the region of ``queue``."""
    return queue_in(QUARANTINE_QUEUE, region_of(queue))


def is_ours(queue: str) -> bool:
    """Whether the queue is one of ours, of whatever region."""
    return plain(queue) in QUEUES


#: The priority of hints that go behind. Of Redis, kombu serves 0, which is all others', first; a RabbitMQ queue that
#: was not declared with priorities ignores it.
BEHIND = 9


def lanes_of(queue: str) -> tuple[str, str]:
    """The lists in Redis that kombu keeps a queue's lanes in: ahead and behind."""
    return queue, f"{queue}\x06\x16{BEHIND}"


@dataclass(frozen=True, slots=True)
class Hint:
    """Look at this step of this run: it may be due."""

    tenant_id: str
    run_id: str
    step_id: str
    visit: int
    queue: str

    @property
    def args(self) -> tuple[str, str, str, int]:
        return (self.tenant_id, self.run_id, self.step_id, self.visit)


@dataclass(frozen=True, slots=True)
class Chord:
    """The hints of a split's branch heads, and the hint of the join that they bring when all have returned."""

    chord_id: str
    heads: Sequence[Hint]
    body: Hint


class Dispatcher(Protocol):
    """Sends hints. Errors are the caller's to swallow: a hint that is lost is sent again by a sweep."""

    def send(self, hints: Sequence[Hint]) -> None: ...

    def send_chord(self, chord: Chord) -> None: ...


class CeleryDispatcher:
    """Sends hints as Celery tasks through the app's own producer pool; several in one round trip.

    The task id is a fresh one, the arguments shown are the ids themselves: a run can be found in Flower by either.

    A broker that does not answer holds up whoever sends until a timeout; after that it is left alone for as long as it
    has cost, so that it costs at most half of anybody's time. What should be sent meanwhile a sweep sends.
    """

    def __init__(self, app: Celery, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._monotonic = monotonic
        self._alone_until = 0.0
        self._lock = threading.Lock()
        self._waiting: list[Hint] = []
        self._publishing = False
        self._origin = f"{os.getpid()}@{os.uname().nodename}"
        self._lanes = Lanes(self._depth_ahead)

    def send(self, hints: Sequence[Hint]) -> None:
        """Publish the hints, or leave them to a thread that is publishing right now: it takes them along.

        What the broker refuses is logged, since whose hint it was is no longer known; a sweep sends it again.
        """
        with self._lock:
            self._waiting.extend(hints)
            if self._publishing:
                return
            self._publishing = True
        while batch := self._next_batch():
            try:
                with self._sparing():
                    self._publish_all(batch)
            except Exception as exc:  # noqa: BLE001  # whatever a broker's client raises, what the hints are about is safe
                logger.warning("%d hints not sent (%s); a sweep sends them again", len(batch), exc)

    @contextmanager
    def _sparing(self) -> Iterator[None]:
        """Raise :class:`InfrastructureError` instead while the broker is left alone; see the class."""
        began = self._monotonic()
        if began < self._alone_until:
            raise InfrastructureError("the broker has not answered a moment ago")
        try:
            yield
        except Exception:
            now = self._monotonic()
            self._alone_until = now + (now - began)
            raise

    def _next_batch(self) -> list[Hint]:
        with self._lock:
            batch, self._waiting = self._waiting, []
            self._publishing = bool(batch)
        return batch

    def _publish_all(self, hints: Sequence[Hint]) -> None:
        declared: set[str] = set()
        lanes = self._lanes.behind([(hint.tenant_id, hint.queue) for hint in hints])
        with self._producer(len(hints)) as producer:
            for hint, behind in zip(hints, lanes, strict=True):
                self._publish(producer, hint, declared, behind=behind)

    def _depth_ahead(self, queue: str) -> int | None:
        """How many hints lie in the lane ahead; of a broker that is no Redis, and has one lane, nothing is known."""
        try:
            with self._app.producer_or_acquire() as producer:
                client = getattr(producer.channel, "client", None)
                return None if client is None else int(client.llen(queue))
        except Exception as exc:  # noqa: BLE001  # whatever a broker's client raises: the hint then goes ahead
            logger.debug("the queue %s could not be looked at: %s", queue, exc)
            return None

    def send_chord(self, chord: Chord) -> None:
        """Publish the heads as headers of one chord; without a backend that can count them, as plain hints."""
        if not getattr(self._app.backend, "supports_native_join", False):
            self.send(chord.heads)
            return
        with self._sparing():
            self._publish_chord(chord, new_id())

    def _publish_chord(self, chord: Chord, group_id: str) -> None:
        body = self._signature(chord.body, chord.chord_id)
        self._app.backend.set_chord_size(group_id, len(chord.heads))
        declared: set[str] = set()
        lanes = self._lanes.behind([(hint.tenant_id, hint.queue) for hint in chord.heads])
        with self._producer(len(chord.heads)) as producer:
            for index, (hint, behind) in enumerate(zip(chord.heads, lanes, strict=True)):
                part = {"chord": body, "group_id": group_id, "group_index": index}
                self._publish(producer, hint, declared, behind=behind, **part)

    def unattended(self, queues: Iterable[str], timeout: float = 1.0) -> list[str]:
        """Those of ``queues`` that no living worker consumes; asks all workers and waits ``timeout`` seconds."""
        answers = self._app.control.inspect(timeout=timeout).active_queues() or {}
        served = {queue["name"] for consumed in answers.values() for queue in consumed}
        return sorted(set(queues) - served)

    def _signature(self, hint: Hint, task_id: str) -> Any:
        return self._app.signature(
            RUN_STEP,
            args=hint.args,
            immutable=True,
            options={"queue": hint.queue, "task_id": task_id, "ignore_result": True},
        )

    def _publish(self, producer: Producer, hint: Hint, declared: set[str], *, behind: bool, **chord: Any) -> None:
        """Publish one message of a batch, for which each queue is declared once."""
        amqp, task_id = self._app.amqp, new_id()
        text = f"({', '.join(map(repr, hint.args))})"
        message = amqp.create_task_message(
            task_id,
            RUN_STEP,
            args=hint.args,
            kwargs={},
            argsrepr=text,
            kwargsrepr="{}",
            origin=self._origin,
            ignore_result=True,
            root_id=task_id,
            **chord,
        )
        declare = () if hint.queue in declared else None
        declared.add(hint.queue)
        lane = {"priority": BEHIND} if behind else {}
        # The app declares the queues of its own region only.
        queue = hint.queue if hint.queue in amqp.queues else _queue(hint.queue)
        amqp.send_task_message(producer, RUN_STEP, message, queue=queue, retry=False, declare=declare, **lane)

    @contextmanager
    def _producer(self, count: int) -> Iterator[Producer]:
        with self._app.producer_or_acquire() as producer:
            if count > 1:
                with producer.batch():
                    yield producer
            else:
                yield producer


#: Seconds in which a broker that is there answers.
ANSWER_SECONDS = 10
#: Seconds after which a message that was received but not acknowledged is delivered again. Step hints are never
#: acknowledged; only foreign tasks on the same broker are concerned.
VISIBILITY_SECONDS = 1800


def celery_app(settings: Settings, *, name: str = "llmteam", include: Sequence[str] = ()) -> Celery:
    """A Celery app for this installation: JSON only, queues declared, nothing of Celery's own retries.

    Queues are ``no_ack``: a hint is gone once it is delivered, and one that is lost costs a sweep, never data. In
    return there is no visibility timeout that could run a step twice. Raises :class:`ConfigurationError`.
    """
    from celery import Celery

    if settings.broker_url is None:
        raise ConfigurationError(
            "LLMTEAM_BROKER_URL is not set and no embedded servers are running: set it, or use `llmteam up`"
        )
    app = Celery(name, set_as_current=False, include=list(include))
    broker, primary = celery_url(settings.broker_url)
    backend, counting = celery_url(settings.result_backend or "")
    transport = {
        **primary,
        "visibility_timeout": VISIBILITY_SECONDS,
        # A broker that went without a word: whoever sends is told after the timeout, and whoever waits for messages,
        # to whom no timeout applies, connects anew after twice the interval.
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": ANSWER_SECONDS,
        "retry_on_timeout": False,
        # A broker that is away must not hold up whoever sends: otherwise kombu tries again for six seconds.
        "max_retries": 0,
    }
    app.conf.update(
        broker_url=broker,
        result_backend=backend or None,
        task_queues=step_queues(settings.region),
        task_default_queue=queue_in(DEFAULT_QUEUE, settings.region),
        task_create_missing_queues=False,
        task_routes={START_RUN: {"queue": queue_in(CONTROL_QUEUE, settings.region)}},
        broker_transport_options=transport,
        result_backend_transport_options={**counting, "retry_policy": {"timeout": 5.0}},
        **_FIXED,
    )
    return app


def step_queues(region: str = DEFAULT_REGION) -> list[Queue]:
    """Our queues as Celery's ``task_queues`` takes them; a foreign app adds those of its workers' region to its own."""
    return [_queue(name) for name in queues_in(region)]


def _queue(name: str) -> Queue:
    from kombu.entity import Exchange, Queue

    exchange = Exchange("llmteam")  # type: ignore[no-untyped-call]
    return Queue(name, exchange, routing_key=name, no_ack=True)  # type: ignore[no-untyped-call]


def pass_on(app: Celery, task: str, arguments: Mapping[str, Any], queue: str) -> None:
    """Send a task to a queue, of whatever region. Raises what the broker's client raises."""
    known = queue if queue in app.amqp.queues else _queue(queue)
    app.send_task(task, kwargs=dict(arguments), queue=known, ignore_result=True)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message to another application goes: a queue, or an exchange of this ``kind`` and a routing key."""

    routing_key: str
    exchange: str = ""
    kind: str = "direct"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``queue``, ``exchange/routing.key`` or, for another kind, ``topic:exchange/routing.key``.

        Raises :class:`ConfigurationError`, for our own queues and exchanges too.
        """
        place, slash, key = text.rpartition("/")
        kind, colon, exchange = place.rpartition(":")
        known = kind in ("direct", "topic", "fanout") if colon else True
        if not (key and known and bool(exchange) == bool(slash) and len(text) <= 255 and text.isprintable()):
            raise ConfigurationError("a message goes to a queue, to exchange/routing.key or topic:exchange/routing.key")
        if exchange.startswith("llmteam") or key.startswith("llmteam"):
            raise ConfigurationError("queues and exchanges that begin with llmteam are this system's own")
        return cls(key, exchange, kind or "direct")


def publish(
    broker_url: str,
    address: Address,
    body: bytes,
    *,
    headers: Mapping[str, str],
    message_id: str | None = None,
    correlation_id: str | None = None,
    seconds: float = 10.0,
) -> None:
    """Put a JSON message where another application reads it; returns when the broker took it. Blocks.

    The queue or exchange is declared, durable. Raises :class:`InfrastructureError`.
    """
    from kombu.connection import Connection
    from kombu.entity import Exchange, Queue

    transport = {"socket_timeout": seconds, "socket_connect_timeout": min(seconds, 5.0), "max_retries": 0}
    amqp = broker_url.startswith(("amqp", "pyamqp"))
    url, primary = celery_url(broker_url)
    options = {"confirm_publish": True} if amqp else {**transport, **primary}
    failure: InfrastructureError
    try:
        made = Connection(url, connect_timeout=min(seconds, 5.0), transport_options=options)  # type: ignore[no-untyped-call]
        with made as connection:
            exchange = Exchange(address.exchange, type=address.kind) if address.exchange else None  # type: ignore[no-untyped-call]
            queue = None if exchange else Queue(address.routing_key, durable=True)  # type: ignore[no-untyped-call]
            connection.Producer().publish(
                body,
                exchange=exchange or "",
                routing_key=address.routing_key,
                declare=[exchange or queue],
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=2,
                headers=dict(headers),
                message_id=message_id,
                correlation_id=correlation_id,
                retry=False,
            )
            return
    except Exception as exc:  # noqa: BLE001  # whatever a broker's client raises: its text may have the URL
        failure = InfrastructureError(f"the broker did not take the message ({type(exc).__name__})")
    raise failure


def depth(connection: Any, queue: str) -> int:
    """How many messages wait in a queue; asked over a connection of Celery's."""
    channel = connection.default_channel
    try:
        count: int = channel.queue_declare(queue, passive=True).message_count
    except connection.channel_errors:
        # Redis forgets a list that is empty.
        return 0
    return count


_FIXED: dict[str, Any] = {
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_acks_late": False,
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    "task_reject_on_worker_lost": False,
    "task_publish_retry": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,
    "broker_pool_limit": 16,
    "broker_pool_acquire_timeout": 5,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "task_track_started": False,
    "result_extended": False,
    "result_expires": 3600,
    "result_chord_expires": 7 * 24 * 3600,
    "result_chord_join_timeout": 10,
    "redis_socket_timeout": ANSWER_SECONDS,
    "redis_socket_keepalive": True,
    "redis_backend_health_check_interval": ANSWER_SECONDS,
    "worker_send_task_events": False,
    "task_send_sent_event": False,
    "enable_utc": True,
    "timezone": "UTC",
    "beat_max_loop_interval": 5,
}
