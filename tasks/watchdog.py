"""Looks whether this worker still receives messages, and restarts its consumer when it does not.

After the broker was away, Celery's consumer can go on living without reading from its connection. A thread of the
main process compares what lies in the queues with what was received. Brokers other than Redis are left alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from celery.signals import task_rejected, task_revoked, task_unknown
from celery.worker import state
from celery.worker.control import inspect_command

from llmteam.dispatch import depth, is_ours
from llmteam.errors import LLMTeamError
from llmteam.ids import utc_now
from llmteam.tasks import leaving, notices
from llmteam.tasks.hearing import Hearing, Look, Verdict

logger = logging.getLogger(__name__)

#: The remote control command that says what a worker received so far.
RECEIVING = "llmteam_receiving"
#: Seconds between two looks at most.
_INTERVAL = 5.0
#: Seconds in which the broker answers a look.
_ANSWER_SECONDS = 5.0

#: Seconds in which Celery, whose pauses grow to half a minute, has found a broker again that answers.
_RECONNECT_SECONDS = 60.0

#: Messages that were received and became no task; those that did, Celery counts.
_odd_messages = 0


class DeafConsumerError(LLMTeamError, ConnectionError):
    """Raised in the consumer's loop, so that Celery makes its connection to the broker anew."""


class Watchdog(threading.Thread):
    """See the module. Ends with the worker."""

    def __init__(self, consumer: Any, deaf_seconds: float) -> None:
        super().__init__(name="llmteam-watchdog", daemon=True)
        self._consumer = consumer
        self._deaf_seconds = deaf_seconds
        self._interval = min(_INTERVAL, deaf_seconds / 5)
        self._hearing = Hearing(deaf_seconds, largest_gap=3 * self._interval)
        self._connection: Any = None
        self._lost_at: float | None = None

    def run(self) -> None:
        while not leaving.ending():
            try:
                self._look()
            except Exception as exc:  # noqa: BLE001  # whatever a broker's client raises, the next look may work
                logger.debug("the broker does not say what lies in its queues: %r", exc)
                self._disconnect()
            time.sleep(self._interval)
        self._disconnect()

    def _look(self) -> None:
        waiting = self._waiting()
        now = time.monotonic()
        free = 0 if self._is_reconnecting(now) else free_places(self._consumer)
        verdict = self._hearing.judge(Look(now, sum(waiting.values()), received(), free))
        if verdict is Verdict.WELL or leaving.ending():
            return
        if verdict is Verdict.RECOVERED:
            logger.warning("this worker receives messages again")
            return
        ends = verdict is Verdict.STILL_DEAF
        self._tell(waiting, free, ends)
        if ends:
            leaving.leave()
        else:
            renew_connection(self._consumer)

    def _is_reconnecting(self, now: float) -> bool:
        """Whether Celery has no connection and is at it; not for ever."""
        if self._consumer.connection is not None:
            self._lost_at = None
            return False
        if self._lost_at is None:
            self._lost_at = now
        return now - self._lost_at < _RECONNECT_SECONDS

    def _waiting(self) -> Mapping[str, int]:
        """Messages by queue, of those of our queues that this worker consumes."""
        if self._connection is None:
            options = {"socket_timeout": _ANSWER_SECONDS, "socket_connect_timeout": _ANSWER_SECONDS, "max_retries": 0}
            self._connection = self._consumer.app.connection_for_read(transport_options=options)
        names = [name for name in list(self._consumer.app.amqp.queues.consume_from) if is_ours(name)]
        return {name: depth(self._connection, name) for name in names}

    def _tell(self, waiting: Mapping[str, int], free: int, ends: bool) -> None:
        lying = {name: count for name, count in waiting.items() if count}
        logger.log(
            logging.ERROR if ends else logging.WARNING,
            "this worker received nothing for %g s although %s lie in the queues and %d of its places are free: %s",
            self._deaf_seconds,
            " and ".join(f"{count} in {name}" for name, count in lying.items()),
            free,
            "it ends, to be started again" if ends else "its connection to the broker is made anew",
        )
        notice = notices.Notice(self._consumer.hostname, utc_now().isoformat(), lying, ends)
        notices.leave(self._connection.default_channel.client, notice)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.collect(socket_timeout=_ANSWER_SECONDS)


def start(consumer: Any, deaf_seconds: float) -> None:
    """Watch over the worker of ``consumer`` until it ends. Does nothing where the broker is no Redis."""
    if consumer.connection.transport.driver_type != "redis":
        return
    for signal in (task_rejected, task_revoked, task_unknown):
        signal.connect(_count, weak=False, dispatch_uid="llmteam.watchdog")
    Watchdog(consumer, deaf_seconds).start()


def received() -> int:
    """How many messages this worker has received so far, of whatever kind."""
    return int(state.all_total_count[0]) + _odd_messages


def free_places(consumer: Any) -> int:
    """How many more tasks the pool would take right now."""
    limit = getattr(consumer.controller, "max_concurrency", None) or consumer.pool.num_processes
    return int(limit) - len(state.reserved_requests)


def renew_connection(consumer: Any) -> None:
    """Have the consumer's loop lose its connection, which Celery then makes anew with everything that hangs on it."""
    stale = consumer.connection
    if consumer.hub is None or stale is None:
        return

    def drop() -> None:
        if consumer.connection is stale:
            raise DeafConsumerError("no message came through this connection although some lie in the queues")

    consumer.hub.call_soon(drop)


@inspect_command(name=RECEIVING)  # type: ignore[untyped-decorator]
def _receiving(panel: Any, **_: Any) -> dict[str, int]:
    """Messages received so far, and places free in the pool."""
    return {"received": received(), "free": free_places(panel.consumer)}


def _count(**_: Any) -> None:
    global _odd_messages  # noqa: PLW0603  # counted in the main process alone
    _odd_messages += 1
