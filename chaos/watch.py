"""The rules of ``llmteam explain --check``, held against all rows again and again while things break."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from llmteam.canvas.execution import MAX_RETRY_AFTER
from llmteam.canvas.postgres.checks import PostgresChecks
from llmteam.db import Database
from llmteam.errors import LLMTeamError

#: Seconds between two looks.
_EVERY = 2.0


@dataclass
class Watch:
    """What was found broken: a line for each row and rule, however often it was seen."""

    looks: int = 0
    broken: dict[str, None] = field(default_factory=dict)

    def look(self, checks: PostgresChecks) -> None:
        """Look once; a server that is away is no finding."""
        try:
            found = checks.check()
        except LLMTeamError:
            return
        self.looks += 1
        for row in found.rows:
            where = f", step {row.step_id}#{row.visit}" if row.step_id is not None else ""
            self.broken.setdefault(f"{row.run_id}: {row.rule}{where}")


@contextmanager
def watching(database_url: str, lease: float) -> Iterator[Watch]:
    """Look every few seconds until the block ends, and once more then."""
    database = Database(database_url, application_name="chaos-watch", pool_size=1)
    checks = PostgresChecks(database, lease=timedelta(seconds=lease), retry=MAX_RETRY_AFTER)
    watch, over = Watch(), threading.Event()

    def run() -> None:
        while not over.wait(_EVERY):
            watch.look(checks)

    thread = threading.Thread(target=run, name="chaos-watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
        watch.look(checks)
        database.close()
