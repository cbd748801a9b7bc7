"""Actions for tests that run in workers: what they do stands in files. Workers import this module."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmteam.actions import ActionConfig, ActionType, register
from tests import failpoints

#: The action that :func:`note` is, and the one that :func:`falter` is.
NOTE, FALTER = "tests.note", "tests.falter"


def note(data: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Add a line to the file ``path``; how many there are."""
    path = Path(data["path"])
    with path.open("a") as file:
        file.write("done\n")
    if failpoints.VARIABLE in os.environ:
        failpoints.reach("action", data.get("run_id", ""), "act")
    return {"lines": len(path.read_text().splitlines())}


def falter(data: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`note`, which fails as a connection does as long as there are no more than ``fail`` lines."""
    noted = note(data, state)
    if noted["lines"] <= data["fail"]:
        raise ConnectionResetError("the other side hung up")
    return noted


def settle() -> None:
    """Register both."""
    for action_id, name in ((NOTE, "note"), (FALTER, "falter")):
        register(ActionConfig(action_id, ActionType.FUNCTION, f"tests.acting:{name}", timeout=30))


settle()
