"""How long the export of an event log takes, and how much memory: a process of its own, and runs that are made up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.servers import ROOT, Site, our_environment
from llmteam.db import Database

#: Events of one run: its own two and two of each step.
EVENTS_OF_A_RUN = 20
_STEPS = (EVENTS_OF_A_RUN - 2) // 2
#: Runs that one script writes.
_PART = 5000

_FILL = """
INSERT INTO llmteam.runs (tenant_id, run_id, segment_id, definition_hash, status, total, next_seq, input, config,
                          context, root_run_id, created_at, started_at, finished_at)
SELECT '{tenant}', 'r-' || n, 'mined', 'none', 'completed', {steps}, {events} + 1, '1', '{{}}', '{{}}', 'r-' || n,
       moment, moment, moment + interval '10 s'
  FROM generate_series({first}, {last}) n, LATERAL (SELECT now() - n * interval '1 s' AS moment) begun;
INSERT INTO llmteam.run_steps (tenant_id, run_id, step_id, state, queue, ready_at, decisions)
SELECT '{tenant}', 'r-' || n, 'step-' || m, 'completed', 'llmteam.io', now() - n * interval '1 s' + m * interval '1 s',
       '{{1}}'
  FROM generate_series({first}, {last}) n, generate_series(1, {steps}) m;
INSERT INTO llmteam.events (tenant_id, run_id, seq, event_type, ts, segment_id, step_id, step_type, visit, attempt,
                            severity, payload, duration_ms)
SELECT '{tenant}', 'r-' || n, m,
       CASE WHEN m = 1 THEN 'segment.started' WHEN m = {events} THEN 'segment.completed'
            WHEN m %% 2 = 0 THEN 'step.started' ELSE 'step.completed' END,
       now() - n * interval '1 s' + (m / 2) * interval '1 s' + m * interval '1 ms', 'mined', step, 'transform', 1, 1,
       'info', '{{"output": "of the step"}}', CASE WHEN m %% 2 = 1 AND m > 1 THEN 1 END
  FROM generate_series({first}, {last}) n, generate_series(1, {events}) m,
       LATERAL (SELECT CASE WHEN m > 1 AND m < {events} THEN 'step-' || m / 2 END AS step) about
"""


@dataclass(frozen=True)
class Exported:
    """What an export took: seconds, and the most memory that its process had at once, in MB."""

    seconds: float
    peak: float


def exported(place: Site, tenant: str, events: int) -> Exported:
    """Export a tenant's runs, which are made up first, with this many events."""
    _fill(place, tenant, max(1, events // EVENTS_OF_A_RUN))
    target, peak = place.folder / f"{tenant}.xes", place.folder / f"{tenant}.peak"
    command = [sys.executable, "-m", "bench.logs", str(peak), "mining", "export", "--tenant", tenant, "-o", str(target)]
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env={**os.environ, **our_environment(place)}, check=True)
    took = time.perf_counter() - begun
    with target.open(encoding="utf-8") as log:
        traces = sum(line == "<trace>\n" for line in log)
    if traces != max(1, events // EVENTS_OF_A_RUN):
        raise AssertionError(f"the log has {traces} traces")
    found = Exported(took, float(peak.read_text()))
    target.unlink()
    peak.unlink()
    return found


def _fill(place: Site, tenant: str, runs: int) -> None:
    assert place.settings.database_url is not None
    with closing(Database(place.settings.database_url, application_name="bench-fill", pool_size=1)) as database:
        for first in range(1, runs + 1, _PART):
            last = min(first + _PART - 1, runs)
            with database.hot(tenant) as connection:
                connection.script(
                    _FILL.format(tenant=tenant, first=first, last=last, steps=_STEPS, events=EVENTS_OF_A_RUN)
                )


def _peak() -> float:
    """The most memory that this process had at once, in MB; what a process it was forked from had does not count."""
    (found,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found) / 1024


def main() -> None:
    """The command line of llmteam; the first argument is the file that the peak of memory goes to."""
    from llmteam.cli.main import main as llmteam

    target, *arguments = sys.argv[1:]
    try:
        llmteam(arguments)
    finally:
        Path(target).write_text(f"{_peak():.1f}")


if __name__ == "__main__":
    main()
