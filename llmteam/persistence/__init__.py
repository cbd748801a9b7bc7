"""Snapshots: what a pipeline had done and what its agents knew, kept to go on from later, elsewhere too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.persistence.exceptions import (
    PersistenceError,
    SnapshotFormatError,
    SnapshotIntegrityError,
    SnapshotSerializationError,
    SnapshotTooLargeError,
)
from llmteam.persistence.manager import SnapshotManager
from llmteam.persistence.models import AgentSnapshot, PipelinePhase, PipelineSnapshot, RestoreResult, SnapshotType
from llmteam.persistence.stores import MemorySnapshotStore, SnapshotStore
from llmteam.persistence.values import UnknownEnum, register_enum

if TYPE_CHECKING:
    from llmteam.persistence.postgres import PostgresSnapshotStore

__all__ = [
    "AgentSnapshot",
    "MemorySnapshotStore",
    "PersistenceError",
    "PipelinePhase",
    "PipelineSnapshot",
    "PostgresSnapshotStore",
    "RestoreResult",
    "SnapshotFormatError",
    "SnapshotIntegrityError",
    "SnapshotManager",
    "SnapshotSerializationError",
    "SnapshotStore",
    "SnapshotTooLargeError",
    "SnapshotType",
    "UnknownEnum",
    "register_enum",
]


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresSnapshotStore":
        from llmteam.persistence.postgres import PostgresSnapshotStore

        return PostgresSnapshotStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
