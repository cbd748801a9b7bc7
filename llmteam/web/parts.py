"""What the application is made of, so that a test or another program can make it of other parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from fastapi import Request

from llmteam.canvas.runs import Runs
from llmteam.events.stream import EventStream
from llmteam.human import HumanInteractionManager
from llmteam.human.links import LinkSigner
from llmteam.ids import Clock, utc_now

#: Seconds without an event after which a follower of a run looks by itself, and tells its client that it is there.
LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Parts:
    """The parts of one application.

    Args:
        manager: through which people answer.
        keys: of links, tokens and forms; the first signs, all verify. Each at least 32 bytes.
        public_url: where people reach the pages; its scheme decides on secure cookies, its path on the links between
            pages (the proxy in front takes that path off).
        runs: the runs that the API shows and starts; without them it has none of that.
        stream: through which they are followed; one of its own over ``runs`` by default.

    Raises :class:`ConfigurationError` without a key, or with one that is too short.
    """

    manager: HumanInteractionManager
    keys: Sequence[bytes] = field(repr=False)
    public_url: str = ""
    clock: Clock = utc_now
    runs: Runs | None = None
    stream: EventStream | None = None
    signer: LinkSigner = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signer", LinkSigner(self.keys))
        if self.runs is not None and self.stream is None:
            stream = EventStream(self.runs.events, wakeup=self.runs.wakeup, poll_seconds=LOOK_SECONDS)
            object.__setattr__(self, "stream", stream)

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach the pages by https."""
        return urlsplit(self.public_url).scheme == "https"

    @property
    def base(self) -> str:
        """The path under which the pages are reached, without a slash at its end."""
        return urlsplit(self.public_url).path.rstrip("/")

    def now(self) -> datetime:
        """The present moment."""
        return self.clock()

    def leave(self) -> None:
        """End the answers that would go on for ever: the server stops."""
        if self.stream is not None:
            self.stream.close()


def parts_of(request: Request) -> Parts:
    """The parts of the application that got this request."""
    parts: Parts = request.app.state.parts
    return parts
