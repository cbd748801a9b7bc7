"""The bench runs, says what it measured and where, and leaves nothing behind. No figure is judged here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import make_url

from bench import capacity, limiter
from bench.report import lines
from bench.scale import MEASURES
from bench.scale import QUICK as SMALL
from bench.servers import ROOT, UnsafeServerError, durability_of
from bench.trust import MEASURES as TRUST
from bench.workloads import FULL, QUICK, Row, percentile
from tests.acceptance.command_line import argv_of
from tests.services import PostgresService
from tests.waiting import wait_until

#: Two servers and four workers are started; on a busy machine each takes a while.
SECONDS = 180
#: All measures, one after the other.
ALL_SECONDS = 3 * SECONDS
#: What is measured in the quick form.
MEASURED = ("chain", "fan", "waits", *MEASURES, *TRUST, *limiter.MEASURES, *capacity.MEASURES)
#: How the measures of what trust costs begin.
OF_TRUST = ("audit appends", "claim + completion, row security")
#: And those of what one Postgres carries.
OF_CAPACITY = (*(f"{kind.name}: " for kind in capacity.kinds(SMALL)), "retention: ")


def bench(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def made_folder() -> Path:
    """A short path that the user of Postgres can enter."""
    made = Path(tempfile.mkdtemp(prefix="llmteam-"))
    made.chmod(0o755)
    return made


@pytest.fixture
def folder() -> Path:
    return made_folder()


@dataclass(frozen=True)
class Measured:
    """What the quick form of everything printed, wrote and left behind."""

    out: str
    document: dict[str, Any]
    left: list[Path]

    def at_size(self, begins: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """The figures whose names begin like one of these."""
        return {one["name"]: one for one in self.document["at_size"] if one["name"].startswith(begins)}

    def others(self) -> dict[str, dict[str, Any]]:
        """What happens at size and under limits."""
        named = {one["name"]: one for one in self.document["at_size"]}
        return {name: one for name, one in named.items() if not name.startswith((*OF_TRUST, *OF_CAPACITY))}


@pytest.fixture(scope="module")
def measured() -> Measured:
    """All measures in one process, because its servers and workers take longer to start than most measures."""
    folder = made_folder()
    target = folder / "figures.json"
    only = [part for name in MEASURED for part in ("--only", name)]
    process = bench("--quick", *only, "--json", str(target), folder=folder)
    out, errors = process.communicate(timeout=ALL_SECONDS)
    assert process.returncode == 0, errors
    document = json.loads(target.read_text())
    target.unlink()
    left = list(folder.iterdir())
    shutil.rmtree(folder)
    return Measured(out, document, left)


@pytest.mark.timeout(ALL_SECONDS)
def test_quick_bench_tells_of_kills_wide_joins_waiting_runs_and_limits(measured: Measured) -> None:
    found = measured.others()

    assert len(found) == 21
    assert all(name in measured.out for name in found)
    assert all(one["ours"] >= 0 for one in found.values())


@pytest.mark.timeout(ALL_SECONDS)
def test_quick_bench_tells_of_chains_and_row_security_beside_doing_without(measured: Measured) -> None:
    found = measured.at_size(OF_TRUST)

    assert len(found) == 5
    assert all(name in measured.out for name in found)
    assert all(one["beside"] is not None for one in found.values())
    assert all(one["ours"] > 0 and one["beside"] > 0 for one in found.values() if "CPU" not in one["name"])


@pytest.mark.timeout(ALL_SECONDS)
def test_quick_bench_tells_what_runs_write_and_what_deleting_them_takes(measured: Measured) -> None:
    found = measured.at_size(OF_CAPACITY)

    assert len(found) == 58
    assert all(name in measured.out for name in found)
    assert all(one["ours"] > 0 for name, one in found.items() if name.endswith(("write-ahead log", "in flight")))
    assert found["retention: runs deleted"]["ours"] > 0


@pytest.mark.timeout(ALL_SECONDS)
def test_quick_bench_prints_every_row_and_writes_every_figure(measured: Measured) -> None:
    document = measured.document

    assert "fsync on, synchronous_commit on, full_page_writes on" in measured.out
    for row in QUICK.rows():
        assert row.name in measured.out
    assert [row["name"] for row in document["rows"]] == [row.name for row in QUICK.rows()]
    assert all(row["raw"] > 0 and row["llmteam"] > 0 for row in document["rows"])
    assert {document["durability"][name] for name in ("fsync", "synchronous_commit", "full_page_writes")} == {"on"}
    assert measured.left == []


@pytest.mark.timeout(SECONDS)
def test_interrupted_bench_takes_its_workers_and_servers_with_it(folder: Path) -> None:
    process = bench("--quick", folder=folder)
    family = psutil.Process(process.pid)
    wait_until(lambda: any("celery" in argv_of(child) for child in family.children()), "a worker", timeout=SECONDS / 3)
    children = family.children(recursive=True)

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS / 3)

    assert process.returncode != 0
    wait_until(lambda: not any(child.is_running() for child in children), "workers and servers to be gone")
    assert list(folder.iterdir()) == []
    folder.rmdir()


def test_database_that_may_lose_what_it_confirmed_is_refused(postgres: PostgresService, database_url: str) -> None:
    assert set(durability_of(database_url)[0].values()) == {"on"}

    postgres.as_superuser(f'ALTER DATABASE "{make_url(database_url).database}" SET synchronous_commit TO off')

    with pytest.raises(UnsafeServerError, match="synchronous_commit = off"):
        durability_of(database_url)


def test_ratio_is_the_median_of_rounds_that_stand_in_pairs() -> None:
    row = Row("chain", "runs/s", 1.0)

    (line,) = lines(
        [row], [{"chain": 10.0}, {"chain": 20.0}, {"chain": 40.0}], [{"chain": value} for value in (11, 10, 44)]
    )

    assert (line.raw, line.llmteam, line.ratio) == (20.0, 11, pytest.approx(1.1))
    assert line.ratios == (1.1, 0.5, 1.1)


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (Row("a rate", "runs/s", 1.0), 1.0, True),
        (Row("a rate", "runs/s", 1.0), 0.99, False),
        (Row("a time", "s", 1.3), 1.3, True),
        (Row("a time", "s", 1.3), 1.31, False),
        (Row("without a target", "ms"), 9.0, None),
    ],
)
def test_target_bounds_rates_from_below_and_times_from_above(row: Row, ratio: float, met: bool | None) -> None:
    assert row.met(ratio) is met


def test_percentile_is_a_measured_value() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.95) == 3.0
    assert percentile([float(number) for number in range(1, 101)], 0.95) == 95.0
    assert percentile([7.0], 0.5) == 7.0


def test_targets_of_the_full_bench_are_the_budgets() -> None:
    targets = {row.name: (row.unit, row.target) for row in FULL.rows() if row.target is not None}

    assert targets == {
        "10-step chain, 150 in flight": ("runs/s", 1.0),
        "fan-out 20 + join, 50 in flight": ("runs/s", 1.0),
        "500 waits of 2 s at once": ("s", 1.3),
    }
