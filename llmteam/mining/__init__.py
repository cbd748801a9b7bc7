"""Process mining: runs as event logs for ProM, Celonis and pm4py, and what they tell of themselves.

:class:`ProcessMiningEngine` mines events that a program records; the rest reads the runs that are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.mining.engine import InvalidProcessEventError, ProcessMiningEngine
from llmteam.mining.models import Case, ProcessEvent, ProcessMetrics, ProcessModel
from llmteam.mining.records import RunReader, Selection, StoredEvent, StoredRun
from llmteam.mining.traces import case_of
from llmteam.mining.xes import xes_parts

if TYPE_CHECKING:
    from llmteam.mining.postgres import PostgresRunReader

__all__ = [
    "Case",
    "InvalidProcessEventError",
    "PostgresRunReader",
    "ProcessEvent",
    "ProcessMetrics",
    "ProcessMiningEngine",
    "ProcessModel",
    "RunReader",
    "Selection",
    "StoredEvent",
    "StoredRun",
    "case_of",
    "xes_parts",
]


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresRunReader":
        from llmteam.mining.postgres import PostgresRunReader

        return PostgresRunReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
