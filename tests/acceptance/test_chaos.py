"""The short form of the chaos trial: every kind of fault about once, under load; nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.servers import ROOT
from chaos.checks import CHECKS
from chaos.trial import RULES_BROKEN
from tests.acceptance.command_line import argv_of
from tests.waiting import wait_until

#: Servers and five services are started, harmed for half a minute, and given time to recover.
SECONDS = 240
#: In CI a trial is the same every time; at home each one looks somewhere else, and prints where.
SEED = ("--seed", "1") if os.environ.get("CI") else ()


def chaos(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "chaos", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that the user of Postgres can enter."""
    made = Path(tempfile.mkdtemp(prefix="llmteam-"))
    made.chmod(0o755)
    yield made
    made.rmdir()


@pytest.mark.timeout(SECONDS)
def test_under_all_kinds_of_faults_every_run_ends_as_it_should_and_nothing_happens_twice(folder: Path) -> None:
    target = folder / "figures.json"

    process = chaos("--quick", *SEED, "--json", str(target), folder=folder)
    out, errors = process.communicate(timeout=SECONDS - 10)

    assert process.returncode == 0, out + errors
    document = json.loads(target.read_text())
    target.unlink()
    assert f"seed {document['seed']}" in out
    assert document["must_be_zero"] == dict.fromkeys([*CHECKS, RULES_BROKEN], 0)
    assert document["figures"]["ended as expected"] == document["runs"] >= 60
    done = [kind for kind, times in document["faults"].items() if times]
    assert len(done) >= len(document["faults"]) - 2, document["schedule"]
    assert list(folder.iterdir()) == []


@pytest.mark.timeout(SECONDS)
def test_an_interrupted_trial_takes_its_workers_and_servers_with_it(folder: Path) -> None:
    process = chaos("--quick", "--no-faults", folder=folder)
    family = psutil.Process(process.pid)
    wait_until(
        lambda: any("chaos.leashed" in argv_of(child) for child in family.children()), "a worker", timeout=SECONDS / 4
    )
    children = family.children(recursive=True)

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS / 4)

    assert process.returncode != 0
    wait_until(lambda: not any(child.is_running() for child in children), "workers and servers to be gone")
    assert list(folder.iterdir()) == []
