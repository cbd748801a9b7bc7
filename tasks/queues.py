"""Which queues are long and being worked off, so that more hints in them would only make them longer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from llmteam.dispatch import QUEUES

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)


class BusyQueues:
    """Looks at the queues of a Redis broker; of another broker it knows nothing, and no queue counts as busy.

    A queue is being worked off when its next message is another one than at the look before.
    """

    def __init__(self, app: Celery, depth: int) -> None:
        self._app = app
        self._depth = depth
        self._heads: dict[str, bytes] = {}

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
        for queue in QUEUES:
            pipe.llen(queue)
            pipe.lindex(queue, -1)
        found = pipe.execute()
        busy = []
        for queue, depth, head in zip(QUEUES, found[::2], found[1::2], strict=True):
            before = self._heads.pop(queue, None)
            if head is not None:
                self._heads[queue] = head
            if depth > self._depth and before is not None and before != head:
                busy.append(queue)
        return busy
