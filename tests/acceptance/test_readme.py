"""README.md does what it says: in a checkout, from the wheel in a fresh environment, and in all its snippets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.acceptance.conftest import Fresh
from tests.blocks import Block, blocks_of
from tests.scenario import ROOT, scenario
from tests.test_packaging import run

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


def from_elsewhere() -> Block:
    (block,) = (block for block in BLOCKS if "pip install" in block.text)
    return block


@pytest.mark.timeout(600)
def test_two_commands_suffice_anywhere(fresh: Fresh) -> None:
    # The wheel is installed already, so that the block's own `pip install` finds it and asks nobody for a release.
    here = fresh.place("here")
    command = ["bash", "-euo", "pipefail", "-c", from_elsewhere().text]

    done = subprocess.run(command, cwd=here, env=fresh.env, capture_output=True, text=True, timeout=500, check=False)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "completed ticket_triage" in done.stdout
    assert "The ticket service has outcome O-1" in done.stderr
    assert {entry.name for entry in here.iterdir()} == {".llmteam"}
