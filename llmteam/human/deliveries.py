"""Delivering what people are to be told: at least once, tried again, nothing held while sending.

A change of a request leaves a row that is not directed at any channel yet. A sweep splits it into one row for each
channel that is set up, and hands each of those to its channel. An attempt is counted before it is made, and only the
one that was counted last may write what came of it: two sweeps at once deliver once. A process that ends between
sending and writing sends again; receivers know a copy by its ``notification_id``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from llmteam import metrics
from llmteam.errors import LLMTeamError
from llmteam.human import rules
from llmteam.human.interactions import Interactions
from llmteam.human.models import InteractionRequest, NotificationKind
from llmteam.human.notifications import BuiltinChannel, Message
from llmteam.human.respond_links import RespondLinks
from llmteam.ids import Clock, utc_now
from llmteam.net.errors import HTTPStatusError
from llmteam.ratelimit.gate import Gate, Hold, Pass, Use

logger = logging.getLogger(__name__)

#: Notifications that one look takes at most, and those that are sent at once: with the seconds that channels may take,
#: a look is over before what it took is taken again.
BATCH, AT_ONCE = 40, 8
#: Seconds after which a notification that was taken, and of which nothing was heard, is taken again.
CLAIM_SECONDS = 120.0
#: Bytes of an error that are kept.
_ERROR_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Due:
    """A notification that a sweep found."""

    tenant_id: str
    notification_id: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """An attempt at a notification; the ``attempt`` is its claim. Without a ``channel`` it is not directed yet."""

    tenant_id: str
    notification_id: str
    request_id: str
    kind: NotificationKind
    channel: str
    recipients: tuple[str, ...]
    attempt: int


@dataclass(frozen=True, slots=True)
class NotificationRecord:
    """A notification as an operator sees it."""

    notification_id: str
    request_id: str
    kind: str
    channel: str
    recipients: list[str]
    state: str
    attempts: int
    wake_at: datetime | None
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


class Deliveries(Protocol):
    """Where notifications are kept. Synchronous; each method is one transaction."""

    def take(self, limit: int) -> Sequence[Due]:
        """Notifications of all tenants that are due, their next look pushed out. Two at once share them."""
        ...

    def begin(self, due: Due) -> Delivery | None:
        """Count an attempt; None when somebody else did since ``due`` was found."""
        ...

    def direct(self, delivery: Delivery, targets: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        """Put one notification for each (channel, recipients) in the place of this one, due at once."""
        ...

    def delivered(self, delivery: Delivery) -> None: ...

    def failed(self, delivery: Delivery, error: str, most: int, wait: float) -> None:
        """Try again later, in ``wait`` seconds at the earliest; dead after the attempt number ``most``."""
        ...

    def postponed(self, delivery: Delivery, wait: float) -> None:
        """Nothing was tried: look again in ``wait`` seconds, and do not count the attempt."""
        ...

    def drop(self, delivery: Delivery) -> None:
        """Nobody needs to be told any more."""
        ...

    def records(self, tenant_id: str, states: Sequence[str], limit: int) -> list[NotificationRecord]:
        """Notifications in these states, newest first."""
        ...

    def retry(self, tenant_id: str, notification_ids: Sequence[str] | None) -> list[str]:
        """Have dead ones (None: all) delivered anew, their attempts counted from nothing; those that were dead."""
        ...


class Courier:
    """Delivers what is due through ``channels``, by name. For many threads; one look at a time in a process.

    Args:
        attempts: how often a delivery is tried before it counts as dead.
        gate: lets deliveries in to a channel by whose name a limit is registered; the others wait for their turn.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        interactions: Interactions,
        channels: Mapping[str, BuiltinChannel],
        links: RespondLinks,
        *,
        attempts: int,
        gate: Gate | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._gate = gate
        self._deliveries = deliveries
        self._interactions = interactions
        self._channels = dict(channels)
        self._links = links
        self._attempts = attempts
        self._clock = clock
        self._looking = threading.Lock()

    def deliver_due(self, limit: int = BATCH) -> int:
        """Deliver at most ``limit`` notifications; how many were found. 0 while another thread is about it.

        Holds no connection to the database while something is sent.
        """
        if not self._looking.acquire(blocking=False):
            return 0
        try:
            found = self._deliveries.take(limit)
            if any(self._each(found)):
                # Those that have just been directed need not wait for the next sweep.
                self._each(self._deliveries.take(limit))
            return len(found)
        finally:
            self._looking.release()

    def _each(self, found: Sequence[Due]) -> list[bool]:
        if not found:
            return []
        with ThreadPoolExecutor(min(AT_ONCE, len(found)), thread_name_prefix="llmteam-deliver") as pool:
            return list(pool.map(self._carefully, found))

    def _carefully(self, due: Due) -> bool:
        """One that cannot be moved must not keep the others from it; it is taken again later."""
        try:
            return self._move(due)
        except LLMTeamError as exc:
            logger.warning("notification %s could not be moved on (%s); it is tried again", due.notification_id, exc)
            return False

    def _move(self, due: Due) -> bool:
        """Direct, deliver or drop it; whether others have come of it."""
        delivery = self._deliveries.begin(due)
        if delivery is None:
            return False
        if delivery.attempt > self._attempts:
            self._deliveries.failed(delivery, "every attempt was cut off", self._attempts, 0.0)
            return False
        case = self._interactions.case(delivery.tenant_id, delivery.request_id)
        if case is None or not _is_news(case.request, delivery.kind):
            self._deliveries.drop(delivery)
            return False
        if delivery.channel:
            self._deliver(delivery, case.request)
            return False
        targets = [
            (name, target)
            for name, channel in self._channels.items()
            for target in channel.targets(delivery.recipients)
        ]
        self._deliveries.direct(delivery, targets)
        return bool(targets)

    def _deliver(self, delivery: Delivery, request: InteractionRequest) -> None:
        channel = self._channels.get(delivery.channel)
        if channel is None:
            self._failed(delivery, f"the channel '{delivery.channel}' is not set up in this worker", 0.0)
            return
        entry = self._entry(delivery)
        if isinstance(entry, Hold):
            self._deliveries.postponed(delivery, entry.seconds)
            self._count(delivery, "postponed")
            return
        try:
            with self._inside(entry):
                channel.deliver(self._message(delivery, request))
        except LLMTeamError as exc:
            wait = exc.retry_after if isinstance(exc, HTTPStatusError) else None
            self._failed(delivery, str(exc), wait or 0.0)
            return
        except Exception as exc:
            logger.exception("notification %s: the channel '%s' failed", delivery.notification_id, delivery.channel)
            self._failed(delivery, f"unexpected {type(exc).__name__}", 0.0)
            return
        if delivery.kind is NotificationKind.REQUESTED:
            now = self._clock()
            self._interactions.apply(delivery.tenant_id, delivery.request_id, lambda case: rules.notified(case, now))
        self._deliveries.delivered(delivery)
        self._count(delivery, "delivered")

    def _entry(self, delivery: Delivery) -> Pass | Hold | None:
        """Room under the limit of the channel's name, if there is one."""
        if self._gate is None or self._gate.registry.find(delivery.channel) is None:
            return None
        ticket = f"notification/{delivery.notification_id}/{delivery.attempt}"
        return self._gate.enter(delivery.tenant_id, [Use(delivery.channel)], ticket)

    @contextmanager
    def _inside(self, entry: Pass | None) -> Iterator[None]:
        """Give back what the delivery held, and tell the channel's circuit what came of it."""
        if self._gate is None or entry is None:
            yield
            return
        try:
            yield
        except BaseException as exc:
            self._gate.leave(entry, exc)
            raise
        self._gate.leave(entry)

    def _message(self, delivery: Delivery, request: InteractionRequest) -> Message:
        return Message(
            request,
            delivery.recipients,
            delivery.kind,
            delivery.notification_id,
            self._links.answer_links(request, delivery.recipients, self._clock()),
            self._links.inbox_url(request),
        )

    def _failed(self, delivery: Delivery, error: str, wait: float) -> None:
        over = delivery.attempt >= self._attempts
        logger.log(
            logging.ERROR if over else logging.WARNING,
            "notification %s of request %s through '%s': attempt %d of %d failed: %s",
            *(delivery.notification_id, delivery.request_id, delivery.channel, delivery.attempt, self._attempts, error),
        )
        self._deliveries.failed(delivery, error[:_ERROR_LENGTH], self._attempts, wait)
        self._count(delivery, "dead" if over else "failed")

    def _count(self, delivery: Delivery, outcome: str) -> None:
        metrics.NOTIFICATIONS.add(delivery.channel if delivery.channel in self._channels else metrics.OTHER, outcome)


def _is_news(request: InteractionRequest, kind: NotificationKind) -> bool:
    """Whether people still need to be told: of what is closed only that nobody answered."""
    return request.status.is_open or kind is NotificationKind.TIMED_OUT
