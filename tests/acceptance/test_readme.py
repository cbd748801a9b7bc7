"""README.md does what it says: in a checkout, from the wheel in a fresh environment, and in all its snippets."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.blocks import Block, blocks_of
from tests.scenario import ROOT, scenario
from tests.test_packaging import copy_project, install, project_files, run

README = ROOT / "README.md"
BLOCKS = blocks_of(README)


def no_servers() -> Mapping[str, str]:
    raise AssertionError("README needs no servers but those that it starts")


@pytest.mark.timeout(600)
def test_every_block_does_what_it_says() -> None:
    with scenario(no_servers) as reader:
        reader.play(README)


def test_the_picture_is_the_example_as_it_ships() -> None:
    (picture,) = (block.text for block in BLOCKS if block.language == "mermaid")
    command = [str(Path(sys.executable).parent / "llmteam"), "segment", "graph", "--format", "mermaid"]

    drawn = run(*command, "examples/ticket_triage/segment.json", cwd=ROOT)

    assert picture == drawn


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the user of the embedded servers can enter, and whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="llmteam-readme-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def from_elsewhere() -> Block:
    (block,) = (block for block in BLOCKS if "pip install" in block.text)
    return block


@pytest.mark.timeout(600)
def test_two_commands_suffice_anywhere(folder: Path) -> None:
    project = copy_project(project_files(), folder / "project")
    run(sys.executable, "-m", "build", "--no-isolation", cwd=project)
    (wheel,) = (project / "dist").glob("*.whl")
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    # From the wheel, so that the block's own `pip install` finds it there and asks nobody for a release.
    install(folder / "venv/bin/python", f"{wheel}[embedded]")
    here = folder / "here"
    here.mkdir()

    env = {
        **{name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}},
        "PATH": f"{folder}/venv/bin{os.pathsep}{os.environ['PATH']}",
    }
    command = ["bash", "-euo", "pipefail", "-c", from_elsewhere().text]
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, timeout=500, check=False)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "completed ticket_triage" in done.stdout
    assert "The ticket service has outcome O-1" in done.stderr
    assert {entry.name for entry in here.iterdir()} == {".llmteam"}
