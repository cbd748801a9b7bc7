"""What can happen to messages while they lie in Valkey: they are doubled, come late, get lost, change places."""

from __future__ import annotations

import random
import time
from typing import Any

import redis

from llmteam.dispatch import QUEUES, lanes_of

_LANES = [lane for queue in QUEUES for lane in lanes_of(queue)]
#: How long one fault goes on catching messages, in seconds.
_CATCH_SECONDS = 1.5
_WAIT_SECONDS = 0.1
#: Most messages that one fault touches.
_MOST = 40


class Messages:
    """The queues of one installation, from the side of whoever wants to harm them."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=5)
        self._seen: list[tuple[str, bytes]] = []

    def flush(self) -> None:
        self._client.flushall()

    def cut(self) -> None:
        """End every connection, this one not."""
        self._client.client_kill_filter(_type="normal", skipme=True)

    def answers(self) -> bool:
        """Whether the server is there."""
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False

    def double(self) -> int:
        """Put in messages a second time, and those of the time before once more; how many."""
        late, self._seen = self._seen, self._taken()
        for queue, message in [*self._seen, *self._seen, *late]:
            self._client.lpush(queue, message)
        return len(self._seen) + len(late)

    def drop(self) -> int:
        """Take messages away; how many."""
        return len(self._taken())

    def reorder(self, number: int) -> int:
        """Put back messages in another order, late; how many."""
        taken = self._taken()
        random.Random(number).shuffle(taken)
        for queue, message in taken:
            self._client.lpush(queue, message)
        return len(taken)

    def _taken(self) -> list[tuple[str, bytes]]:
        """Messages with their queues, taken like a worker does: most of the time they do not lie there for long."""
        give_up = time.monotonic() + _CATCH_SECONDS
        taken: list[tuple[str, bytes]] = []
        while len(taken) < _MOST and time.monotonic() < give_up:
            found: Any = self._client.blpop(_LANES, timeout=_WAIT_SECONDS)
            if found is not None:
                queue, message = found
                taken.append((queue.decode(), message))
        return taken

    def close(self) -> None:
        self._client.close()
