"""Wake-ups: "something happened in this run, look again", with no data in them.

Whoever waits looks into Postgres; a wake-up only makes it look sooner. One may be lost, doubled or spurious, and a lost
one costs the waiter's poll interval, never data. Hence nothing here ever blocks or fails a publisher.
"""

from __future__ import annotations

from llmteam.wakeup.clients import redis_url
from llmteam.wakeup.redis import RedisWakeup, shared_wakeup
from llmteam.wakeup.watches import PREFIX, MemoryWakeup, Wakeup, Watch, channel, end_channel, run_notifier

__all__ = [
    "PREFIX",
    "MemoryWakeup",
    "RedisWakeup",
    "Wakeup",
    "Watch",
    "channel",
    "end_channel",
    "redis_url",
    "run_notifier",
    "shared_wakeup",
]
