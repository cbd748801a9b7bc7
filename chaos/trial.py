"""One trial: servers, workers, runs, faults, a wait that ends, and the evidence."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.servers import embedded
from chaos import checks, report, stalls, steps
from chaos.effects import Effects, Ledger, service
from chaos.evidence import Witness
from chaos.faults import Harm
from chaos.fleet import Fleet, fleet
from chaos.messages import Messages
from chaos.pauses import Pauses
from chaos.people import People
from chaos.rehearsal import RETRY_DELAY, config, outcome_of, rehearse
from chaos.schedule import Fault, Kind, schedule
from chaos.shapes import Case, Outcome, Shape, cases, shapes
from chaos.watch import Watch, watching
from llmteam.canvas import AlreadyRunningError
from llmteam.canvas.client import SegmentClient
from llmteam.embedded import EmbeddedServers
from llmteam.errors import InfrastructureError
from llmteam.settings import Settings, variable

#: The row of the table for what :mod:`chaos.watch` has found.
RULES_BROKEN = "rows that broke a rule at any moment"

Told = Callable[[str], None]
#: Seconds between two looks at the clock.
_LOOK_SECONDS = 0.05
#: Seconds that a start may be tried again while servers are away.
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Size:
    """How much of everything. ``every`` is the pause between two faults, ``settle`` the longest wait for the end."""

    runs: int
    seconds: float
    every: float
    settle: float
    width: int
    pairs: int = 2
    lease: float = 4.0
    sweep: float = 0.5


FULL = Size(runs=600, seconds=120.0, every=2.5, settle=180.0, width=60)
QUICK = Size(runs=90, seconds=26.0, every=1.7, settle=70.0, width=16)


def trial(
    size: Size, seed: int, told: Told, *, kinds: Collection[Kind] = tuple(Kind), logs: Path | None = None
) -> report.Report:
    """Run it. ``logs`` keeps what workers wrote; else their logs go with the servers.

    Raises :class:`LLMTeamError` kinds when it could not be begun.
    """
    all_shapes = shapes(size.lease, size.width)
    planned = cases(all_shapes, size.runs, size.seconds * 0.8, seed)
    faults = schedule(seed, size.seconds, lease=size.lease, every=size.every, kinds=kinds)
    told("starting servers")
    with service() as ledger, embedded("llmteam-chaos-") as servers:
        folder = logs or servers.home / "services"
        folder.mkdir(parents=True, exist_ok=True)
        environment = _environment(servers, ledger, size)
        with fleet(environment, folder, size.pairs) as running:
            told("rehearsing every shape in this process")
            steps.register_service(ledger.url)
            outcomes = rehearse(all_shapes, ledger)
            told("waiting for workers")
            running.wait_until_ready()
            begun = _Trial(size, servers, running, planned, faults, told)
            with watching(servers.database_url, size.lease) as watch:
                begun.run()
        told("looking at what there is")
        expected = {case.run_id: outcome_of(case, outcomes) for case in planned}
        return begun.report(seed, expected, ledger.entries(), watch)


def _environment(servers: EmbeddedServers, ledger: Ledger, size: Size) -> dict[str, str]:
    # What killed processes leave behind goes with the servers.
    remains = servers.home / "tmp"
    remains.mkdir()
    values = {
        "database_url": servers.database_url,
        "broker_url": servers.broker_url,
        "home": str(servers.home / "home"),
        "imports": "chaos.steps",
        "lease_seconds": str(size.lease),
        "sweep_seconds": str(size.sweep),
    }
    named = {variable(name): value for name, value in values.items()}
    return {**named, steps.SERVICE: ledger.url, "TMPDIR": str(remains)}


class _Trial:
    """The part with runs and faults."""

    def __init__(
        self,
        size: Size,
        servers: EmbeddedServers,
        running: Fleet,
        planned: Sequence[Case],
        faults: Sequence[Fault],
        told: Told,
    ) -> None:
        self._size = size
        self._planned = planned
        self._faults = faults
        self._told = told
        self._witness = Witness(servers.superuser_url)
        self._settings = Settings(
            database_url=servers.database_url, broker_url=servers.broker_url, imports=("chaos.steps",)
        )
        self._harm = Harm(running, servers.home, Messages(servers.broker_url), self._witness, Pauses(self._settings))
        self._people = People(self._settings, {case.tenant_id for case in planned})
        self._settled = 0.0
        self._give_up = threading.Event()

    def run(self) -> None:
        """Start runs, harm them, let them come to their ends."""
        starting = threading.Thread(target=self._start_runs, name="chaos-starts", daemon=True)
        starting.start()
        self._people.begin()
        try:
            for fault in self._faults:
                self._pass_time(fault.at)
                self._told(f"{self._harm.now:5.1f} s: {fault.kind}")
                self._harm.inflict(fault)
            self._pass_time(self._size.seconds)
        finally:
            self._harm.end()
            self._harm.messages.close()
            if self._harm.now < self._size.seconds:
                self._give_up.set()
        starting.join(_START_SECONDS)
        self._harm.pauses.finish()
        self._settle()
        self._people.finish()

    def _pass_time(self, until: float) -> None:
        while self._harm.now < until:
            self._harm.tick()
            time.sleep(_LOOK_SECONDS)

    def _start_runs(self) -> None:
        clients = {
            tenant: SegmentClient.connect(settings=self._settings, tenant_id=tenant)
            for tenant in {case.tenant_id for case in self._planned}
        }
        for case in self._planned:
            while self._harm.now < case.at and not self._give_up.is_set():
                time.sleep(_LOOK_SECONDS)
            if self._give_up.is_set():
                break
            self._start(clients[case.tenant_id], case)
        for client in clients.values():
            client.close()

    def _start(self, client: SegmentClient, case: Case) -> None:
        """Start a run as a careful caller does: under an id of its own, again until it is known."""
        give_up = time.monotonic() + _START_SECONDS
        segment, given = case.shape.segment, case.shape.input_for(case.label)
        while time.monotonic() < give_up and not self._give_up.is_set():
            try:
                client.start(segment, given, config=config(), run_id=case.run_id)
            except AlreadyRunningError:
                return
            except InfrastructureError:
                time.sleep(0.2)
            else:
                return

    def _settle(self) -> None:
        """Wait until every run is over, or for as long as it may take."""
        began = time.monotonic()
        left = self._witness.unfinished()
        while left != 0 and self._settled < self._size.settle:
            self._harm.tick()
            time.sleep(0.25)
            left = self._witness.unfinished()
            self._settled = time.monotonic() - began
            self._told(f"no more faults; {left} runs to go")

    def report(self, seed: int, expected: Mapping[str, Outcome], effects: Effects, watch: Watch) -> report.Report:
        """What there is, once the workers have ended."""
        accounts = checks.accounts(expected, self._outputs(), self._witness.evidence(), effects)
        found = {**checks.findings(accounts), RULES_BROKEN: list(watch.broken)}
        by_id = {case.run_id: case.shape for case in self._planned}
        takes = {shape.name: stalls.patience(shape.segment) for shape in set_of(by_id.values())}
        worst = stalls.worst_of(
            stalls.longest(run.events, takes[by_id[run.run_id].name], RETRY_DELAY) for run in accounts
        )
        return report.Report(
            seed=seed,
            runs=len(accounts),
            seconds=self._size.seconds,
            settled=self._settled,
            found=found,
            done=self._harm.done,
            figures={
                **report.figures(accounts, found),
                "services started again": self._harm.restarts,
                "looks of explain --check at all rows": watch.looks,
            },
            stall=worst,
            shapes=Counter(case.shape.name for case in self._planned),
            logs=report.logs(accounts, {**found, "longest stall": [f"{worst.run_id}: {worst.after}"]}),
        )

    def _outputs(self) -> dict[str, Any]:
        """What each run gives to those who ask for it."""
        found = {}
        for tenant in {case.tenant_id for case in self._planned}:
            with closing(SegmentClient.connect(settings=self._settings, tenant_id=tenant)) as client:
                for case in self._planned:
                    if case.tenant_id == tenant:
                        with suppress(LookupError):
                            found[case.run_id] = client.result(case.run_id, 0).outputs
        return found


def set_of(all_shapes: Collection[Shape]) -> list[Shape]:
    """Each shape once."""
    return list({shape.name: shape for shape in all_shapes}.values())
