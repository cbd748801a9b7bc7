"""What the broker keeps for a while about workers that went deaf, so that ``doctor`` can tell.

One bounded list that expires; a flushed broker forgets it, which harms nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from llmteam import codec

_KEY = "llmteam:deaf"
#: Seconds after the newest one in which all are forgotten, and how many are kept.
KEPT_SECONDS, KEPT = 3600, 20


@dataclass(frozen=True, slots=True)
class Notice:
    """A worker that received nothing. ``waiting`` are messages by queue, ``at`` is ISO 8601, ``ended`` its process."""

    worker: str
    at: str
    waiting: Mapping[str, int]
    ended: bool = False

    @property
    def total(self) -> int:
        return sum(self.waiting.values())

    def age(self, now: datetime) -> float:
        """Seconds since then."""
        return max(0.0, (now - datetime.fromisoformat(self.at)).total_seconds())


def leave(client: Any, notice: Notice) -> None:
    """Write a notice with a client of the broker's Redis."""
    with client.pipeline() as pipe:
        pipe.lpush(_KEY, codec.dumps(asdict(notice)))
        pipe.ltrim(_KEY, 0, KEPT - 1)
        pipe.expire(_KEY, KEPT_SECONDS)
        pipe.execute()


def read(client: Any) -> list[Notice]:
    """The newest notices, the latest first; what cannot be read is left out."""
    found = []
    for text in client.lrange(_KEY, 0, KEPT - 1):
        with suppress(TypeError, ValueError):
            notice = Notice(**codec.loads(text))
            datetime.fromisoformat(notice.at)
            found.append(notice)
    return found
