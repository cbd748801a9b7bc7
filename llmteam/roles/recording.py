"""Where an orchestrator records what happens, so that it can be mined."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

#: Transitions of the standard lifecycle model of XES.
STARTED, COMPLETED, ABORTED = "start", "complete", "ate_abort"

_ENGINE = "llmteam.mining"


class ProcessMining(Protocol):
    """Records events of cases and tells what is learned from them."""

    def record_event(
        self,
        process_id: str,
        activity: str,
        timestamp: datetime,
        *,
        resource: str = "",
        lifecycle: str = COMPLETED,
        duration_ms: int = 0,
        attributes: Mapping[str, Any] | None = None,
    ) -> Any: ...

    def calculate_metrics(self) -> Any: ...

    def export_xes(self) -> str: ...


def engine_for(name: str) -> ProcessMining | None:
    """An engine whose log has this name; nothing where no engine is installed."""
    if find_spec(_ENGINE) is None:
        return None
    engine: ProcessMining = import_module(_ENGINE).ProcessMiningEngine(name=name)
    return engine
