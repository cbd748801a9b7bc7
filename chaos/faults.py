"""Doing harm, by pid and only to processes that the harness started."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg2
import redis

from chaos.evidence import Witness
from chaos.fleet import Fleet, Service, children
from chaos.messages import Messages
from chaos.pauses import Pauses
from chaos.schedule import Fault, Kind
from llmteam.embedded import status

T = TypeVar("T")

_SERVER_SECONDS = 20.0
#: Process ids that are told of one fault.
_SHOWN = 8


@dataclass
class Harm:
    """Does what a schedule says. ``done`` is what has happened: seconds, kind, to whom."""

    fleet: Fleet
    home: Path
    messages: Messages
    witness: Witness
    pauses: Pauses
    restarts: int = 0
    done: list[tuple[float, Kind, str]] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _thaws: list[threading.Timer] = field(default_factory=list)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def counts(self) -> dict[Kind, int]:
        counts = Counter(kind for _, kind, _ in self.done)
        return {kind: counts[kind] for kind in Kind}

    def tick(self) -> None:
        """Look after services that have ended."""
        self.restarts += self.fleet.look_after()

    def inflict(self, fault: Fault) -> None:
        """Do one fault now. What finds no victim is not counted."""
        began = self.now
        try:
            whom = _ACTIONS[fault.kind](self, fault)
        except (psutil.Error, redis.RedisError, psycopg2.Error):
            # The victim of a fault may be down already, from the one before.
            return
        if whom:
            self.done.append((round(began, 2), fault.kind, whom))

    def end(self) -> None:
        """Thaw what is frozen."""
        for timer in self._thaws:
            timer.cancel()
            timer.function(*timer.args)

    # -- processes

    def _victim(self, fault: Fault) -> Service:
        """The one that the fault's number says, or the next that is up."""
        in_turn = _from(self.fleet.workers, fault.number)
        return next((one for one in in_turn if one.workers()), in_turn[0])

    def kill_worker(self, fault: Fault) -> str:
        victim = self._victim(fault)
        return _signal(victim.name, _from(victim.workers(), fault.number // 7)[:1], signal.SIGKILL)

    def kill_child(self, fault: Fault) -> str:
        in_turn = _from(self.fleet.preforks, fault.number)
        victim = next((one for one in in_turn if one.pool()), in_turn[0])
        return _signal(victim.name, _from(victim.pool(), fault.number // 7)[:1], signal.SIGKILL)

    def kill_tree(self, fault: Fault) -> str:
        """What happens to a container that is killed."""
        victim = self._victim(fault)
        return _signal(victim.name, victim.family(), signal.SIGKILL)

    def drain(self, fault: Fault) -> str:
        """What a deployment does: the old one is asked to end, a new one comes when it has."""
        victim = self._victim(fault)
        if not victim.is_running:
            return ""
        victim.ask_to_end()
        return victim.name

    def freeze(self, fault: Fault) -> str:
        """Stop a worker with its pool for longer than its lease: a zombie comes back with results that are late."""
        victim = self._victim(fault)
        worker = _from(victim.workers(), fault.number // 7)[:1]
        frozen = [*worker, *(child for one in worker for child in children(one))]
        return self._freeze(victim.name, frozen, fault.seconds)

    def _freeze(self, name: str, processes: list[psutil.Process], seconds: float) -> str:
        whom = _signal(name, processes, signal.SIGSTOP)
        # In a thread of its own: the fault behind this one may hang on what is frozen.
        timer = threading.Timer(seconds, _thaw, [processes])
        timer.daemon = True
        self._thaws.append(timer)
        timer.start()
        return whom and f"{whom} for {seconds} s"

    def kill_beat(self, fault: Fault) -> str:
        self.fleet.beat.wanted = False
        return _signal("beat", self.fleet.beat.family(), signal.SIGKILL)

    # -- servers

    def _server(self, name: str) -> psutil.Process:
        found = next(server.pid for server in status(self.home).servers if server.name == name)
        if found is None:
            raise psutil.NoSuchProcess(0, name)
        return psutil.Process(found)

    def kill_valkey(self, fault: Fault) -> str:
        whom = _signal("valkey", [self._server("valkey")], signal.SIGKILL)
        give_up = time.monotonic() + _SERVER_SECONDS
        while not self.messages.answers() and time.monotonic() < give_up:
            time.sleep(0.02)
        # It would find its append-only file; most installations keep none.
        self.messages.flush()
        return whom

    def restart_postgres(self, fault: Fault) -> str:
        return _signal("postgres", [self._server("postgres")], signal.SIGQUIT)

    def stall_valkey(self, fault: Fault) -> str:
        return self._freeze("valkey", [self._server("valkey")], fault.seconds)

    def stall_postgres(self, fault: Fault) -> str:
        """Every session stands still, and nobody can tell that from a slow server."""
        postmaster = self._server("postgres")
        return self._freeze("postgres", [postmaster, *children(postmaster)], fault.seconds)

    def cut(self, fault: Fault) -> str:
        """What a restarted proxy or a firewall does."""
        self.messages.cut()
        return f"valkey, postgres ({self.witness.cut()} sessions)"

    # -- runs

    def pause(self, fault: Fault) -> str:
        """A run that is in the middle of something."""
        running = _from(self.witness.running(), fault.number)
        for tenant_id, run_id in running[:1]:
            self.pauses.begin(tenant_id, run_id, fault.seconds)
            return run_id
        return ""

    # -- messages

    def flush(self, fault: Fault) -> str:
        self.messages.flush()
        return "valkey"

    def double(self, fault: Fault) -> str:
        return _counted(self.messages.double())

    def drop(self, fault: Fault) -> str:
        return _counted(self.messages.drop())

    def reorder(self, fault: Fault) -> str:
        return _counted(self.messages.reorder(fault.number))


def _from(things: Sequence[T], number: int) -> list[T]:
    """All of them, beginning with the one that a number says."""
    first = number % len(things) if things else 0
    return [*things[first:], *things[:first]]


def _counted(messages: int) -> str:
    return f"{messages} messages" if messages else ""


def _signal(name: str, processes: Sequence[psutil.Process], number: signal.Signals) -> str:
    """Signal those that live; the name and their pids."""
    hit = []
    for one in processes:
        with contextlib.suppress(psutil.Error):
            one.send_signal(number)
            hit.append(str(one.pid))
    shown = ", ".join(hit[:_SHOWN]) + (f" and {len(hit) - _SHOWN} more" if len(hit) > _SHOWN else "")
    return f"{name} ({shown})" if hit else ""


def _thaw(processes: list[psutil.Process]) -> None:
    for one in processes:
        with contextlib.suppress(psutil.Error):
            one.send_signal(signal.SIGCONT)


_ACTIONS: dict[Kind, Callable[[Harm, Fault], str]] = {
    Kind.KILL_WORKER: Harm.kill_worker,
    Kind.KILL_CHILD: Harm.kill_child,
    Kind.KILL_TREE: Harm.kill_tree,
    Kind.FREEZE: Harm.freeze,
    Kind.DRAIN: Harm.drain,
    Kind.FLUSH: Harm.flush,
    Kind.KILL_VALKEY: Harm.kill_valkey,
    Kind.STALL_VALKEY: Harm.stall_valkey,
    Kind.RESTART_POSTGRES: Harm.restart_postgres,
    Kind.STALL_POSTGRES: Harm.stall_postgres,
    Kind.CUT: Harm.cut,
    Kind.DUPLICATE: Harm.double,
    Kind.DROP: Harm.drop,
    Kind.REORDER: Harm.reorder,
    Kind.PAUSE: Harm.pause,
    Kind.KILL_BEAT: Harm.kill_beat,
}
