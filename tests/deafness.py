"""Makes the consumer of a worker that imports this module deaf, the way a lost poll callback does.

It happens when a file named ``deafen`` appears in the working directory that holds the worker's process id; ``for
good`` behind it keeps a new connection from being heard as well. The file is gone when it is done.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from celery.signals import worker_ready

_TRIGGER = Path("deafen")
_BROKER = "kombu.transport.redis"


class Deaf(set[Any]):
    """Poll callbacks among which none of the broker's connection is taken."""

    def add(self, callback: Any) -> None:
        if callback.__module__ != _BROKER:
            super().add(callback)


@worker_ready.connect(weak=False)
def _begin(sender: Any, **_: Any) -> None:
    threading.Thread(target=_wait, args=(sender,), daemon=True).start()


def _wait(consumer: Any) -> None:
    while True:
        words = _TRIGGER.read_text().split(maxsplit=1) if _TRIGGER.exists() else []
        if words and words[0] == str(os.getpid()):
            consumer.hub.call_soon(_deafen, consumer, words[1:] == ["for good"])
            return
        time.sleep(0.02)


def _deafen(consumer: Any, for_good: bool) -> None:
    hub = consumer.hub
    heard = {callback for callback in hub.on_tick if callback.__module__ == _BROKER}
    hub.on_tick -= heard
    if for_good:
        hub.on_tick = Deaf(hub.on_tick)
    cycle = consumer.connection.transport.cycle
    for fd, (_, kind) in list(cycle.fds.items()):
        if kind == "BRPOP":
            hub.remove_reader(fd)
    _TRIGGER.unlink()
