"""Which queues are long and being worked off, so that more hints in them would only make them longer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmteam.dispatch import QUEUES, lanes_of

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)


class BusyQueues:
    """Looks at these queues of a Redis broker; of another broker it knows nothing, and no queue counts as busy.

    A queue is being worked off when its next message is another one than at the look before.
    """

    def __init__(self, app: Celery, depth: int, queues: Sequence[str] = QUEUES) -> None:
        self._app = app
        self._queues = queues
        self._depth = depth
        self._heads: dict[str, tuple[bytes | None, bytes | None]] = {}

    def __call__(self) -> list[str]:
        """The queues that are deeper than the limit and being worked off; none when the broker does not answer."""
        try:
            with self._app.connection_for_read(connect_timeout=2) as connection:
                client = getattr(connection.default_channel, "client", None)
                return [] if client is None else self._look(client)
        except Exception as exc:  # noqa: BLE001  # whatever a broker's client raises: hints are then sent as ever
            logger.debug("the queues could not be looked at: %s", exc)
            return []

    def _look(self, client: Any) -> list[str]:
        pipe = client.pipeline(transaction=False)
        for lane in (lane for queue in self._queues for lane in lanes_of(queue)):
            pipe.llen(lane)
            pipe.lindex(lane, -1)
        found = pipe.execute()
        busy = []
        for place, queue in enumerate(self._queues):
            ahead, first, behind, other = found[4 * place : 4 * place + 4]
            before = self._heads.pop(queue, None)
            if (first, other) != (None, None):
                self._heads[queue] = (first, other)
            if ahead + behind > self._depth and before is not None and before != (first, other):
                busy.append(queue)
        return busy
