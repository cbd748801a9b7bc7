from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmteam.cli.roster import Enlistment, members
from tests.embedding import PYTHONPATH

_MEMBER = """
import sys
from pathlib import Path
from llmteam.cli.roster import Enlistment
one = Enlistment(Path(sys.argv[1]), "worker", ["shop"])
one.write(["threads"])
one.write(["threads", "beat"])
print("here", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path):
    """Another process in the roster of ``tmp_path``."""
    argv = [sys.executable, "-c", _MEMBER, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=PYTHONPATH) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_home_without_anybody_has_no_members(tmp_path: Path) -> None:
    assert members(tmp_path) == []


def test_a_living_process_is_found_with_what_it_runs_last(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    (found,) = members(tmp_path)

    assert (found.pid, found.command, found.programs, found.imports) == (
        other.pid,
        "worker",
        ("threads", "beat"),
        ("shop",),
    )


def test_a_process_that_was_killed_is_forgotten(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    other.kill()
    other.wait()

    assert members(tmp_path) == []
    assert list((tmp_path / "workers").glob("*.json")) == []


def test_a_process_is_no_member_to_itself_and_leaves_no_file(tmp_path: Path) -> None:
    one = Enlistment(tmp_path, "run")
    one.write(["threads"])

    assert members(tmp_path) == []
    one.close()
    one.close()
    assert list((tmp_path / "workers").iterdir()) == []


def test_a_file_of_somebody_else_is_no_member(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "1.json").write_text("no json")

    assert members(tmp_path) == []
