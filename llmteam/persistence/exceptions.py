"""What can go wrong with snapshots.

::

    PersistenceError
    ├── SnapshotSerializationError  a value cannot be kept in a snapshot
    ├── SnapshotTooLargeError       a snapshot is over the size limit of its store
    ├── SnapshotFormatError         this is no snapshot, or one of a format that is not known here
    └── SnapshotIntegrityError      a snapshot was changed since it was taken, or is not signed by whom it should be
"""

from __future__ import annotations

from llmteam.errors import LLMTeamError

__all__ = [
    "PersistenceError",
    "SnapshotFormatError",
    "SnapshotIntegrityError",
    "SnapshotSerializationError",
    "SnapshotTooLargeError",
]


class PersistenceError(LLMTeamError):
    """Root of what snapshots can fail with."""

    retryable = False


class SnapshotSerializationError(PersistenceError, TypeError):
    """A value cannot be kept in a snapshot. ``path`` is its JSON path."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class SnapshotTooLargeError(PersistenceError):
    """A snapshot is over the size limit of its store. Sizes are in bytes of JSON."""

    def __init__(self, snapshot_id: str, size: int, limit: int) -> None:
        super().__init__(
            f"Snapshot '{snapshot_id[:80]}' is {size:,} bytes of JSON, over the limit of {limit:,}: keep large values "
            "elsewhere and references to them in the snapshot, or give the store a larger max_bytes"
        )
        self.snapshot_id = snapshot_id
        self.size = size
        self.limit = limit


class SnapshotFormatError(PersistenceError):
    """What was read is no snapshot, or one of a format that is not known here."""

    def __init__(self, snapshot_id: str, reason: str) -> None:
        super().__init__(f"Snapshot '{snapshot_id[:80]}' cannot be read: {reason}")
        self.snapshot_id = snapshot_id
        self.reason = reason


class SnapshotIntegrityError(PersistenceError):
    """A snapshot was changed since it was taken, or lacks the signature that its tenant's have."""

    def __init__(self, snapshot_id: str, reason: str = "its checksum does not fit its content") -> None:
        super().__init__(
            f"Snapshot '{snapshot_id[:80]}' is refused: {reason}, so it was changed since it was taken. "
            "Restore from another one"
        )
        self.snapshot_id = snapshot_id
        self.reason = reason
