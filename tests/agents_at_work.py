"""Agents for workers of tests; each writes down that it began, in ``folder``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from llmteam.canvas import StepCatalog, register_agent


class Counting:
    """Adds ``n`` to the input's; with ``gate`` it goes on only when that file is there."""

    def __init__(self, folder: str, n: int, gate: str = "") -> None:
        self.folder, self.n, self.gate = Path(folder), n, gate

    def process(self, input_data: dict[str, Any]) -> dict[str, Any]:
        with (self.folder / f"{self.n}.began").open("a") as out:
            out.write(f"{os.getpid()}\n")
        while self.gate and not (self.folder / self.gate).exists():
            time.sleep(0.02)
        input_data["seen"].append(self.n)
        return {"sum": input_data["base"] + self.n, "seen": input_data["seen"]}


class Wrong:
    """Fails: for good, or with a lost connection as often as ``lost`` says."""

    def __init__(self, lost: int = 0, folder: str = "") -> None:
        self.lost, self.folder = lost, folder

    async def process(self, input_data: dict[str, Any]) -> str:
        if not self.lost:
            raise ValueError("wrong")
        log = Path(self.folder) / "wrong.began"
        before = log.read_text().count("x") if log.exists() else 0
        log.write_text("x" * (before + 1))
        if before < self.lost:
            raise ConnectionError("gone")
        return "in the end"


def register(catalog: StepCatalog | None = None) -> None:
    """Make the agents known, to the process's own catalog when none is given."""
    register_agent("counting", catalog=catalog)(Counting)
    register_agent("wrong", catalog=catalog)(Wrong)
