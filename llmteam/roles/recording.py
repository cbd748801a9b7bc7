"""Where an orchestrator records what happens, so that it can be mined."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from llmteam.mining import ProcessMiningEngine

#: Runs of one tenant that are kept, with their history and their events.
RUNS_KEPT = 1000
#: Transitions of the standard lifecycle model of XES.
STARTED, COMPLETED, ABORTED = "start", "complete", "ate_abort"


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


def engine_for(name: str) -> ProcessMining:
    """An engine whose log has this name and holds the runs whose history is kept too."""
    return ProcessMiningEngine(name=name, max_cases=RUNS_KEPT)
