"""Running a crew until a signal ends it, or one of its members says that it cannot work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from llmteam.cli import codes
from llmteam.cli.crew import Crew
from llmteam.cli.render import fail, say

#: Seconds between two looks when nothing happens.
_LOOK_SECONDS = 0.25
#: Starts of a child that never came up, after which we give up.
_ATTEMPTS = 5


class Signals:
    """The signals that ask for the end: the first to drain, the second to leave at once."""

    def __init__(self) -> None:
        self.count = 0
        self._woken = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._came)
        signal.signal(signal.SIGCHLD, self._wake)

    def _came(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._woken.set()

    def _wake(self, number: int, frame: FrameType | None) -> None:
        self._woken.set()

    def wait(self) -> None:
        """Until a signal comes, or it is time to look again."""
        self._woken.wait(_LOOK_SECONDS)
        self._woken.clear()


def supervise(crew: Crew, signals: Signals, *, patience: float, when_ready: Callable[[], None]) -> int:
    """Keep the crew running; the exit code. Running steps get ``patience`` seconds at the end."""
    told = False
    while not signals.count:
        crew.tick()
        refusal = crew.refusal
        if refusal is not None:
            fail(refusal.message)
            crew.stop(0.0)
            return refusal.code
        if name := crew.hopeless(_ATTEMPTS):
            fail(f"{name} ended {_ATTEMPTS} times and never came up; what it wrote stands above")
            crew.stop(patience)
            return codes.FAILED
        if not told and crew.ready:
            told = True
            when_ready()
        signals.wait()
    say("stopping; running steps are finished first, a second signal ends them")
    crew.stop(patience, impatient=lambda: signals.count > 1)
    return codes.DONE
