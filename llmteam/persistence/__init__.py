"""Snapshots: what a pipeline had done and what its agents knew, kept to go on from later, elsewhere too."""

from __future__ import annotations

from importlib import import_module
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
    from llmteam.persistence.hybrid import HybridSnapshotStore
    from llmteam.persistence.postgres import PostgresSnapshotStore
    from llmteam.persistence.redis import RedisSnapshotStore

__all__ = [
    "AgentSnapshot",
    "HybridSnapshotStore",
    "MemorySnapshotStore",
    "PersistenceError",
    "PipelinePhase",
    "PipelineSnapshot",
    "PostgresSnapshotStore",
    "RedisSnapshotStore",
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


#: Stores that bring a server's library, loaded on first use, by their modules.
_LATER = {"HybridSnapshotStore": "hybrid", "PostgresSnapshotStore": "postgres", "RedisSnapshotStore": "redis"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
