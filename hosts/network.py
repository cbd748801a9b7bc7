"""What a network of hosts can do, and how one is cut off."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from llmteam.embedded.processes import Account

POSTGRES, VALKEY = "postgres", "valkey"
SERVERS = (POSTGRES, VALKEY)
_INSIDE = Path(__file__).with_name("inside.py")


class Kind(Enum):
    """A way of being cut off: its name in the table."""

    APART = "both servers out of reach, the outside world in reach"
    UNPLUGGED = "network cable out"
    NO_POSTGRES = "Postgres out of reach, Valkey in reach"
    NO_VALKEY = "Valkey out of reach, Postgres in reach"
    DEAF = "its requests arrive at both servers, their answers are lost"
    MUTE = "its requests are lost on the way to both servers"
    BEAT_GONE = "network cable of the host of beat out"

    @property
    def word(self) -> str:
        """Its name on the command line."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True)
class Cut:
    """What gets lost: frames to these servers, frames from these, or everything, the outside world too."""

    to: tuple[str, ...] = ()
    back: tuple[str, ...] = ()
    unplugged: bool = False


CUTS = {
    Kind.APART: Cut(SERVERS, SERVERS),
    Kind.UNPLUGGED: Cut(SERVERS, SERVERS, unplugged=True),
    Kind.NO_POSTGRES: Cut((POSTGRES,), (POSTGRES,)),
    Kind.NO_VALKEY: Cut((VALKEY,), (VALKEY,)),
    Kind.DEAF: Cut((), SERVERS),
    Kind.MUTE: Cut(SERVERS, ()),
    Kind.BEAT_GONE: Cut(SERVERS, SERVERS, unplugged=True),
}


class Network(Protocol):
    """Hosts by name; the harness is on none of them and is never cut off."""

    #: What it is made of, for people.
    words: str
    #: Where the harness listens for all hosts.
    address: str

    def listens(self, server: str) -> tuple[str, int]:
        """The address and port that a server has to take."""

    def reaches(self, host: str, server: str) -> tuple[str, int]:
        """Where a host finds a server."""

    def seen_as(self, host: str) -> str | None:
        """The address that servers see of a host; None when they cannot tell hosts apart."""

    def command(self, host: str, account: Account | None, number: signal.Signals, argv: Sequence[str]) -> list[str]:
        """``argv`` on a host, as a user; it gets the signal when the harness ends."""

    def cut(self, host: str, cut: Cut) -> None:
        """Lose frames from now on. Nobody is told: no reset, no refusal."""

    def join(self, host: str) -> None:
        """Lose no more."""

    def close(self) -> None:
        """Let go of everything."""


def inside(namespace: str, account: Account | None, number: signal.Signals, argv: Sequence[str]) -> list[str]:
    """The command line that becomes ``argv``; see :mod:`hosts.inside`."""
    who = ("-", "-") if account is None else (str(account.uid), str(account.gid))
    return [sys.executable, "-I", "-S", str(_INSIDE), namespace, *who, str(int(number)), *argv]
