"""Workers that ``llmteam run`` keeps for itself on embedded servers, where no other process of the home serves them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from llmteam.cli.child import Orders
from llmteam.cli.crew import Crew, Program, beat, prefork_worker, tail, threads_worker
from llmteam.cli.roster import Enlistment, members
from llmteam.dispatch import THREAD_QUEUES
from llmteam.errors import ConfigurationError, InfrastructureError
from llmteam.regions import DEFAULT_REGION

#: Seconds after which a run that still goes on gets what it did not need at once: the other worker and the sweeps.
LATER_SECONDS = 5.0
#: Seconds that steps of other runs get, and those of nobody, when the workers end.
GUEST_SECONDS, _LAST_SECONDS = 30.0, 1.0
#: Seconds between two looks at who else serves the home.
_LOOK_SECONDS = 1.0
#: Starts of a child that never came up, after which we give up.
_ATTEMPTS = 3

THREADS, PREFORK, BEAT = "threads", "prefork", "beat"


def programs_for(queues: Iterable[str]) -> set[str]:
    """The workers that serve these queues."""
    return {THREADS if queue in THREAD_QUEUES else PREFORK for queue in queues}


class WorkerRefusedError(ConfigurationError):
    """A worker of this command says that it cannot do its work. ``exit_code`` is the worker's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class OwnWorkers:
    """The crew of one ``run``. ``alone`` ignores who else serves the home, for work that only these workers can do."""

    def __init__(
        self, home: Path, imports: tuple[str, ...] = (), *, alone: bool = False, region: str = DEFAULT_REGION
    ) -> None:
        self._home = home
        self._alone = alone
        self._programs: Mapping[str, Program] = {
            THREADS: threads_worker(region=region, lean=True),
            PREFORK: prefork_worker(region=region, lean=True),
            BEAT: beat(),
        }
        self._imports = imports
        self._crew = Crew(log=home / "log")
        self._enlistment = Enlistment(home, "run", imports)
        self._wanted: set[str] = set()
        self._began: float | None = None
        self._looked = 0.0

    def warm(self) -> None:
        """Start the worker that nearly every run needs, so that it is there when the servers are."""
        if THREADS not in self._served():
            self._add({THREADS})

    def release(self, orders: Orders) -> None:
        """Let the workers begin; the servers answer and have their tables."""
        self._crew.release(orders)

    def serve(self, programs: set[str], users_types: Iterable[str] = ()) -> None:
        """See to it that these workers run.

        Raises :class:`ConfigurationError` when others serve the home that do not know the users' step types.
        """
        self._wanted = set(programs)
        self._began = time.monotonic()
        if users_types:
            self._check_imports(users_types)
        # Enlisted even without workers: whoever's they are lets our steps finish.
        self._enlistment.write(self._crew.names)
        self._add(self._wanted - self._served())

    def _check_imports(self, users_types: Iterable[str]) -> None:
        for member in [] if self._alone else members(self._home):
            missing = set(self._imports) - set(member.imports)
            if missing and PREFORK in member.programs:
                raise ConfigurationError(
                    f"the workers of `llmteam {member.command}` (process {member.pid}) serve this home and did not "
                    f"import {', '.join(sorted(missing))}, which {', '.join(sorted(users_types))} may need: start "
                    "them with --import, or set another LLMTEAM_HOME for this run"
                )

    @property
    def any(self) -> bool:
        """Whether this process has workers, so that the run stops with it."""
        return bool(self._crew.names)

    @property
    def ready(self) -> bool:
        return self._crew.ready

    def tick(self) -> None:
        """Look after the workers. Raises :class:`WorkerRefusedError` or :class:`InfrastructureError`."""
        self._crew.tick()
        refusal = self._crew.refusal
        if refusal is not None:
            raise WorkerRefusedError(f"the worker does not start: {refusal.message}", refusal.code)
        if name := self._crew.hopeless(_ATTEMPTS):
            log = self._crew.log_of(name)
            raise InfrastructureError(
                f"the {name} worker ends at once each time; its log {log} ends with:\n{tail(log)}"
            )
        now = time.monotonic()
        if self._began is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if now - self._began > LATER_SECONDS:
            self._wanted |= {THREADS, PREFORK, BEAT}
        self._add(self._wanted - self._served())

    def _served(self) -> set[str]:
        others = [] if self._alone else members(self._home)
        return {program for member in others for program in member.programs}

    def _add(self, programs: set[str]) -> None:
        missing = sorted(programs - set(self._crew.names), reverse=True)
        for name in missing:
            self._crew.add(self._programs[name])
        if missing:
            self._enlistment.write(self._crew.names)

    def stop(self) -> None:
        """End them. The run is over; what other runs of the home may have them working on is finished first."""
        self._enlistment.close()
        self._crew.stop(GUEST_SECONDS if members(self._home) else _LAST_SECONDS, hasty=True)
