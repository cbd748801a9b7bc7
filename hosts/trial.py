"""One trial: hosts, runs, one cut after the other, a wait that ends, and the evidence."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chaos.steps
from chaos import checks
from chaos.effects import Effects, Ledger, service
from chaos.evidence import Witness
from chaos.fleet import GRACE, NotReadyError, Service
from chaos.people import People
from chaos.rehearsal import config, outcome_of, rehearse
from chaos.report import figures, logs
from chaos.shapes import Case, Shape
from chaos.trial import RULES_BROKEN
from chaos.watch import Watch, watching
from hosts import pace, shapes, steps
from hosts.network import CUTS, POSTGRES, VALKEY, Kind, Network
from hosts.report import Report, Row
from hosts.servers import Servers, serving
from llmteam.canvas.client import SegmentClient
from llmteam.settings import Settings, variable

Told = Callable[[str], None]
BEAT = "beat"
NOT_BACK, ENDED = "hosts that did not come back", "services that ended"
TOO_FAST, KEPT = "limited calls beyond the pace", "sessions that Postgres kept of hosts that were gone"
#: Seconds in which Postgres notices that a client went without a word.
_NOTICED_SECONDS = 25.0
#: What beat writes before it sends, and when that failed.
_SENT, _FAILED = "Sending due task", "Message Error"
_LOOK_SECONDS = 0.1
#: Characters of a log that are shown.
_WORDS = 500
_READY_SECONDS = 120.0
_HELD_SECONDS = 60.0
#: Seconds between two probes of a host that is joined again.
_PROBE_SECONDS = 0.5


@dataclass(frozen=True)
class Size:
    """How much of everything, in seconds; ``runs`` are started during each cut, ``patience`` is for a host to be back.

    Without ``apart``, workers have no processes for steps.
    """

    hosts: int
    cut: float
    lease: float
    sweep: float
    runs: int
    patience: float
    settle: float
    apart: bool
    kinds: tuple[Kind, ...]
    threads: int = 6


FULL = Size(3, 60.0, 30.0, 5.0, 60, 120.0, 600.0, apart=True, kinds=tuple(Kind))
QUICK = Size(2, 7.0, 4.0, 0.5, 12, 60.0, 60.0, apart=False, kinds=(Kind.APART, Kind.NO_VALKEY))


@dataclass
class _Hosts:
    """The services by host."""

    workers: list[Service]
    beat: Service

    @property
    def all(self) -> list[Service]:
        return [self.beat, *self.workers]


def trial(
    size: Size, seed: int, make: Callable[[Sequence[str]], Network], told: Told, logs_in: Path | None = None
) -> Report:
    """Run it. ``logs_in`` keeps what workers wrote; else their logs go with the servers.

    Raises :class:`LLMTeamError` kinds when it could not be begun.
    """
    names = [f"host-{number + 1}" for number in range(size.hosts)]
    told("starting servers")
    with closing(make([*names, BEAT])) as network, service(network.address) as ledger, serving(network) as servers:
        folder = logs_in or servers.home.parent / "services"
        folder.mkdir(parents=True, exist_ok=True)
        with _services(size, servers, ledger, names, folder) as running:
            told("rehearsing every shape in this process")
            chaos.steps.register_service(ledger.url)
            begun = _Trial(size, seed, servers, running, told)
            outcomes = rehearse(list(shapes.all_shapes(0.0, apart=size.apart).values()), ledger)
            told("waiting for workers")
            _wait_until_ready(running)
            with watching(servers.urls()["database_url"], size.lease) as watch:
                begun.run()
        told("looking at what there is")
        expected = {case.run_id: outcome_of(case, outcomes) for case in begun.started}
        return begun.report(network.words, expected, ledger.entries(), watch)


@contextmanager
def _services(size: Size, servers: Servers, ledger: Ledger, names: Sequence[str], folder: Path) -> Iterator[_Hosts]:
    """A worker on each host, beat on one of its own; all gone afterwards."""
    started: list[Service] = []

    def start(host: str, *arguments: str) -> Service:
        def wrap(argv: Sequence[str]) -> list[str]:
            return servers.network.command(host, None, signal.SIGTERM, argv)

        made = Service(host, arguments, _environment(size, servers, ledger, host), folder, wrap)
        started.append(made)
        return made

    pool = "both" if size.apart else "threads"
    try:
        beat = start(BEAT, "beat")
        worker = ("worker", "--pool", pool, "--concurrency", str(size.threads), "--grace", str(GRACE))
        yield _Hosts([start(name, *worker) for name in names], beat)
    finally:
        for one in started:
            one.ask_to_end()
        for one in started:
            one.end()


def _environment(size: Size, servers: Servers, ledger: Ledger, host: str) -> dict[str, str]:
    remains = servers.home.parent / f"tmp-{host}"
    remains.mkdir()
    values = {
        **servers.urls(host),
        "home": str(servers.home.parent / host),
        "imports": "hosts.steps",
        "lease_seconds": str(size.lease),
        "sweep_seconds": str(size.sweep),
        "limit_workers": str(size.hosts),
    }
    if host == BEAT:
        # With each message that it sends: how the trial knows that it does.
        values["log_level"] = "DEBUG"
    own = {steps.HOST: host, steps.JOURNAL: str(_journal(servers)), chaos.steps.SERVICE: ledger.url}
    return {**{variable(name): value for name, value in values.items()}, **own, "TMPDIR": str(remains)}


def _journal(servers: Servers) -> Path:
    return servers.home.parent / "journal"


def _wait_until_ready(running: _Hosts) -> None:
    give_up = time.monotonic() + _READY_SECONDS
    for one in running.all:
        while not one.is_ready():
            if time.monotonic() > give_up:
                raise NotReadyError(one.name, one.last_words())
            time.sleep(_LOOK_SECONDS)


@dataclass
class _Trial:
    """The part with runs and cuts."""

    size: Size
    seed: int
    servers: Servers
    running: _Hosts
    told: Told
    started: list[Case] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    found: dict[str, list[str]] = field(
        default_factory=lambda: {name: [] for name in (NOT_BACK, ENDED, TOO_FAST, KEPT)}
    )

    def __post_init__(self) -> None:
        self._chance = random.Random(f"hosts {self.seed}")
        self._shapes = shapes.all_shapes(self.size.cut * 1.25, apart=self.size.apart)
        self._witness = Witness(self.servers.superuser_url)
        self._settings = Settings(**self.servers.urls(), imports=("hosts.steps",))  # type: ignore[arg-type]
        self._clients = {
            tenant: SegmentClient.connect(settings=self._settings, tenant_id=tenant) for tenant in ("alpha", "beta")
        }
        self._cuts: list[tuple[float, float]] = []

    def run(self) -> None:
        """One cut after the other, then the end of all runs."""
        people = People(self._settings, list(self._clients))
        people.begin()
        try:
            for kind in self.size.kinds:
                self._round(kind)
            self.found[ENDED] += [
                f"{one.name}: …{one.last_words()[-_WORDS:]}" for one in self.running.all if not one.is_running
            ]
        finally:
            people.finish()

    # -- one cut

    def _round(self, kind: Kind) -> None:
        victim = self.running.beat if kind is Kind.BEAT_GONE else self._chance.choice(self.running.workers)
        losses, notes = self._witness.losses(), len(steps.notes(_journal(self.servers)))
        if kind is not Kind.BEAT_GONE:
            self._wait_until_busy(victim.name)
        began = time.time()
        self.servers.network.cut(victim.name, CUTS[kind])
        self._load(kind, victim)
        self._look_for_sessions(kind, victim, began)
        self.servers.network.join(victim.name)
        if VALKEY in (*CUTS[kind].to, *CUTS[kind].back):
            self._cuts.append((began, time.time()))
        back = self._wait_until_back(kind, victim)
        settled = self._settle()
        late = self._refused(notes, began)
        self.rows.append(Row(kind, victim.name, self._witness.losses() - losses, late, back, settled))

    def _wait_until_busy(self, host: str) -> None:
        """Wait until a long step runs there; it is what the cut is about. Whoever is faster takes the others."""
        give_up = time.monotonic() + _HELD_SECONDS
        while not self._held(host):
            if time.monotonic() > give_up:
                raise NotReadyError(host, "it has taken none of the long steps")
            self._start(self._shapes[shapes.LONG])
            time.sleep(_PROBE_SECONDS)

    def _held(self, host: str) -> bool:
        under_way = set()
        for note in steps.notes(_journal(self.servers)):
            if note.host == host and note.step_id == "long":
                (under_way.discard if note.ended else under_way.add)(note.run_id)
        return bool(under_way)

    def _load(self, kind: Kind, victim: Service) -> None:
        """Runs of every shape, spread over the cut."""
        common = shapes.common(self._shapes.values())
        began, pause = time.monotonic(), self.size.cut / (self.size.runs + 1)
        for number in range(self.size.runs):
            self.told(f"{kind.value}: {victim.name}, {time.monotonic() - began:.0f} of {self.size.cut:g} s")
            self._start(common[number % len(common)])
            while time.monotonic() < began + (number + 1) * pause:
                time.sleep(_LOOK_SECONDS)
        while time.monotonic() < began + self.size.cut:
            time.sleep(_LOOK_SECONDS)

    def _look_for_sessions(self, kind: Kind, victim: Service, began: float) -> None:
        """Postgres must not keep what a host that went has begun, and locked, for longer than a minute."""
        address = self.servers.network.seen_as(victim.name)
        if address is None or POSTGRES not in (*CUTS[kind].to, *CUTS[kind].back) or self.size.cut < _NOTICED_SECONDS:
            return
        if left := self._witness.sessions(address, began):
            self.found[KEPT].append(f"{victim.name}: {kind.word}, {left} sessions after {self.size.cut:g} s")

    def _start(self, shape: Shape) -> None:
        number = len(self.started)
        tenant = ("alpha", "beta")[number % 2]
        case = Case(f"{shape.name}-{self.seed}-{number:04d}", tenant, shape, 0.0)
        self._clients[tenant].start(shape.segment, shape.input_for(case.label), config=config(), run_id=case.run_id)
        self.started.append(case)

    def _wait_until_back(self, kind: Kind, victim: Service) -> float | None:
        """Seconds until the host does again what it is there for; None when it does not in time."""
        joined, began = time.time(), time.monotonic()
        written = len(victim.log())
        while (passed := time.monotonic() - began) < self.size.patience:
            self.told(f"{kind.value}: {victim.name} joined again, not back for {passed:.0f} s")
            if kind is Kind.BEAT_GONE:
                back = sends_again(victim.log()[written:])
            else:
                self._start(self._shapes[shapes.PROBE])
                kinds = {steps.CALLED, steps.CALLED_APART} if self.size.apart else {steps.CALLED}
                back = kinds <= self._witness.accepted(steps.PLACE, victim.name, joined)
            if back:
                return passed
            time.sleep(_PROBE_SECONDS)
        self.found[NOT_BACK].append(
            f"{victim.name}: {kind.word}, not within {passed:.0f} s; …{victim.last_words()[-_WORDS:]}"
        )
        return None

    def _refused(self, before: int, since: float) -> int:
        """Handlers of long steps that came to their end although their step had got another claim by then."""
        ended: dict[str, int] = {}
        for note in steps.notes(_journal(self.servers))[before:]:
            if note.ended and note.step_id == "long" and note.at > since:
                ended[note.run_id] = ended.get(note.run_id, 0) + 1
        return sum(times - 1 for times in ended.values())

    def _settle(self) -> float:
        """Wait until every run is over, or for as long as it may take; seconds."""
        began = time.monotonic()
        while (left := self._witness.unfinished()) != 0 and time.monotonic() - began < self.size.settle:
            self.told(f"no cut; {left} runs to go")
            time.sleep(_LOOK_SECONDS)
        return time.monotonic() - began

    # -- afterwards

    def report(self, words: str, expected: Mapping[str, Any], effects: Effects, watch: Watch) -> Report:
        """What there is, once the workers have ended."""
        accounts = checks.accounts(expected, self._outputs(), self._witness.evidence(), effects)
        self.found[TOO_FAST] += pace.too_fast(steps.notes(_journal(self.servers)), self._cuts)
        found = {**checks.findings(accounts), RULES_BROKEN: list(watch.broken), **self.found}
        for client in self._clients.values():
            client.close()
        return Report(
            network=words,
            size=self.size,
            seed=self.seed,
            rows=self.rows,
            found=found,
            figures={**figures(accounts, found), "looks of explain --check at all rows": watch.looks},
            logs=logs(accounts, found),
        )

    def _outputs(self) -> dict[str, Any]:
        found = {}
        for case in self.started:
            with suppress(LookupError):
                found[case.run_id] = self._clients[case.tenant_id].result(case.run_id, 0).outputs
        return found


def sends_again(log: str) -> bool:
    """Whether beat sends: it has begun to send again after a message that went out without a complaint."""
    return log.rpartition(_FAILED)[2].count(_SENT) > 1
