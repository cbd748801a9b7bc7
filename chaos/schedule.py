"""Which faults come when: drawn from a seed, so that a trial can be had again."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What the harness does to the installation. The value is what the table calls it."""

    KILL_WORKER = "worker process killed"
    KILL_CHILD = "pool process killed"
    KILL_TREE = "supervisor and all its processes killed"
    FREEZE = "worker frozen beyond its lease"
    DRAIN = "worker ended by SIGTERM and replaced"
    FLUSH = "Valkey flushed"
    KILL_VALKEY = "Valkey killed, back without data"
    STALL_VALKEY = "Valkey frozen for seconds"
    RESTART_POSTGRES = "Postgres ended without a checkpoint"
    STALL_POSTGRES = "Postgres frozen for seconds"
    CUT = "connections to both servers cut"
    DUPLICATE = "messages doubled"
    DROP = "messages dropped"
    REORDER = "queues shuffled"
    PAUSE = "run paused and resumed"
    KILL_BEAT = "beat killed for good"

    @property
    def word(self) -> str:
        """How the command line calls it."""
        return self.name.lower().replace("_", "-")


#: How often a kind is drawn once each has had its turn. Beat dies once.
_WEIGHTS = {
    Kind.KILL_WORKER: 3.0,
    Kind.KILL_CHILD: 3.0,
    Kind.KILL_TREE: 1.0,
    Kind.FREEZE: 2.0,
    Kind.DRAIN: 1.0,
    Kind.FLUSH: 1.5,
    Kind.KILL_VALKEY: 1.0,
    Kind.STALL_VALKEY: 1.0,
    Kind.RESTART_POSTGRES: 1.0,
    Kind.STALL_POSTGRES: 1.0,
    Kind.CUT: 1.0,
    Kind.DUPLICATE: 2.0,
    Kind.DROP: 1.0,
    Kind.REORDER: 1.0,
    Kind.PAUSE: 2.0,
}
#: How long a kind lasts at least, in leases; at most it is twice that.
_LEASES = {Kind.FREEZE: 1.25, Kind.STALL_VALKEY: 0.4, Kind.STALL_POSTGRES: 0.4, Kind.PAUSE: 0.25}


@dataclass(frozen=True)
class Fault:
    """``at`` seconds after the beginning; ``number`` picks the victim, ``seconds`` is how long it lasts."""

    at: float
    kind: Kind
    number: int
    seconds: float = 0.0


def schedule(
    seed: int, seconds: float, *, lease: float, every: float, kinds: Collection[Kind] = tuple(Kind)
) -> list[Fault]:
    """About one fault every ``every`` seconds, each kind at least once as far as there is time, in order.

    Nothing is frozen so late that it would thaw after the end, and beat dies in the middle.
    """
    chance = random.Random(f"faults {seed}")
    # By their place in Kind: the order of a set changes from process to process.
    once = [kind for kind in Kind if kind in kinds and kind is not Kind.KILL_BEAT]
    slots = max(1, int(seconds / every))
    chance.shuffle(once)
    drawn = once[:slots]
    if once:
        drawn += chance.choices(once, [_WEIGHTS[kind] for kind in once], k=slots - len(drawn))
    faults = []
    for slot, kind in enumerate(drawn):
        at = round(min((slot + chance.random()) * every, seconds), 2)
        length = lease * _LEASES.get(kind, 0.0) * (1 + chance.random())
        if length:
            at = max(0.0, round(min(at, seconds - length), 2))
        faults.append(Fault(at, kind, chance.randrange(1_000_000), round(length, 2)))
    if Kind.KILL_BEAT in kinds:
        faults.append(Fault(round(seconds * (0.4 + 0.2 * chance.random()), 2), Kind.KILL_BEAT, 0))
    return sorted(faults, key=lambda fault: fault.at)
