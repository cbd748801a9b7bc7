"""What several processes counted is one page; what those that ended counted is neither lost nor a file more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmteam.metrics import exposition
from llmteam.metrics.exposition import FOLDER_VARIABLE, Exposition, ExpositionError, folder
from tests.embedding import PYTHONPATH
from tests.scraping import Scrape, read

_COUNTING = """
import sys
from llmteam import metrics
metrics.enable()
metrics.STEPS.add("transform", "completed", value=float(sys.argv[1]))
for _ in range(int(sys.argv[1])):
    metrics.STEP_SECONDS.observe(0.2, "transform")
print("counted", flush=True)
sys.stdin.read()
"""


def counting(path: Path, count: int) -> subprocess.Popen[str]:
    """A process that has counted, and lives on until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _COUNTING, str(count)],
        env=os.environ | PYTHONPATH | {FOLDER_VARIABLE: str(path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def told(page: Exposition) -> Scrape:
    return read([page.page().decode()])


def test_processes_are_added_up_and_those_that_were_killed_stay_counted(tmp_path: Path) -> None:
    page = Exposition(tmp_path)
    one, two = counting(tmp_path, 3), counting(tmp_path, 4)

    assert told(page).of("llmteam_steps_total", outcome="completed") == 7

    for process in (one, two):
        kill(process)
        found = told(page)
        assert found.of("llmteam_steps_total", outcome="completed") == 7
        assert found.of("llmteam_step_seconds_count") == 7
        assert found.of("llmteam_step_seconds_bucket", le="0.1") == 0
        assert found.of("llmteam_step_seconds_bucket", le="0.25") == 7
        assert found.of("llmteam_step_seconds_sum") == pytest.approx(1.4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counter_0.db", "histogram_0.db"]


def test_a_process_that_has_ended_counts_as_that_before_its_parent_asks(tmp_path: Path) -> None:
    process = counting(tmp_path, 2)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert Exposition(tmp_path).fold() == 2

    process.communicate()


def test_folding_again_changes_nothing(tmp_path: Path) -> None:
    page = Exposition(tmp_path)
    for count in (1, 2, 3):
        kill(counting(tmp_path, count))
        assert page.fold() == 2

    assert page.fold() == 0
    assert told(page).of("llmteam_steps_total", outcome="completed") == 6
    assert told(page).of("llmteam_step_seconds_count") == 6


def test_what_a_killed_process_left_unfinished_costs_nobody_else_his_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = Exposition(tmp_path)
    process = counting(tmp_path, 3)
    kill(process)
    gone = process.pid
    (tmp_path / f"histogram_{gone}.db").write_bytes(b"")
    (tmp_path / "counter.unfinished").write_bytes(b"\x00" * 7)

    assert told(page).of("llmteam_steps_total", outcome="completed") == 3
    assert f"histogram_{gone}.db cannot be read" in caplog.text


def test_a_folder_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    page = Exposition(tmp_path / "gone")

    with pytest.raises(ExpositionError, match="cannot be read"):
        page.page()


def test_folders_of_supervisors_that_were_killed_are_removed_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, other = tmp_path / "llmteam-metrics-left", tmp_path / "another"
    for path in (left, other):
        path.mkdir()
        os.utime(path, (0, 0))
    with folder() as used:
        os.utime(used, (0, 0))

        with folder() as own:
            assert sorted(tmp_path.iterdir()) == sorted([used, own, other])
            assert own.stat().st_mode & 0o077 == 0

        assert used.is_dir()
    assert list(tmp_path.iterdir()) == [other]


def test_files_are_looked_after_although_nobody_asks(tmp_path: Path) -> None:
    from tests.waiting import wait_until

    page = Exposition(tmp_path)
    kill(counting(tmp_path, 1))

    with page.folding(seconds=0.02):
        wait_until(lambda: not [path for path in tmp_path.glob("*.db") if "_0." not in path.name], "them to be folded")

    assert told(page).of("llmteam_steps_total") == 1


def test_which_version_answers_is_told(tmp_path: Path) -> None:
    import llmteam

    assert told(Exposition(tmp_path)).by("llmteam_build_info", "version") == {(llmteam.__version__,): 1}
    assert exposition.CONTENT_TYPE.startswith("text/plain")
