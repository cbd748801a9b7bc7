"""The snapshot of a run: what it had done and what it waited for, with a checksum over all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmteam import codec
from llmteam.canvas.exceptions import SnapshotIntegrityError
from llmteam.persistence.models import PipelinePhase, PipelineSnapshot, SnapshotType

__all__ = ["SegmentSnapshot", "SnapshotStep"]


class SnapshotStep(BaseModel):
    """One execution of a step. ``repeats``: it still ran, and runs again after a pause."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_id: str
    visit: int = 1
    state: str
    attempt: int = 0
    losses: int = 0
    decisions: tuple[int, ...] | None = None
    waits_for: str | None = None
    wake_at: datetime | None = None
    repeats: bool = False


class SegmentSnapshot(BaseModel):
    """A run as it was at one moment: that of a pause, or one of which it took a snapshot by itself.

    Written once, in the transaction that made it so. ``step_outputs`` has the answer of each step that is over, of its
    latest visit; large ones as ``{"$ref": digest}``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot_id: str
    run_id: str
    segment_id: str
    tenant_id: str
    definition_hash: str = ""
    current_step: str | None = None
    completed_steps: list[str] = Field(default_factory=list)
    step_outputs: dict[str, Any] = Field(default_factory=dict)
    input_data: Any = None
    steps: list[SnapshotStep] = Field(default_factory=list)
    created_at: datetime
    original_started_at: datetime | None = None
    snapshot_version: str = "1.0"
    checksum: str = ""

    def compute_checksum(self) -> str:
        """SHA-256, as hexadecimal digits, of the canonical JSON of every field but the checksum itself."""
        return codec.digest(codec.canonical(self.model_dump(mode="json", exclude={"checksum"})))

    def sealed(self) -> Self:
        """The same snapshot with its checksum."""
        return self.model_copy(update={"checksum": self.compute_checksum()})

    def verify(self) -> bool:
        """Whether nothing was changed since it was sealed."""
        return self.checksum == self.compute_checksum()

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Self:
        """The snapshot of a document. Raises :class:`SnapshotIntegrityError` when its checksum does not fit."""
        snapshot = cls.model_validate(document)
        if not snapshot.verify():
            raise SnapshotIntegrityError(snapshot.snapshot_id)
        return snapshot

    def as_pipeline(
        self,
        pending_approvals: Sequence[str] = (),
        *,
        snapshot_type: SnapshotType = SnapshotType.PAUSE,
        phase: PipelinePhase | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> PipelineSnapshot:
        """The form in which all snapshots are kept: this one stands in its ``global_state``, under ``segment``.

        ``pending_approvals`` are the requests that people have not answered. ``phase`` is that of a pause by default.
        """
        asks = any(step.waits_for == "person" for step in self.steps)
        snapshot = PipelineSnapshot(
            snapshot_id=self.snapshot_id,
            snapshot_type=snapshot_type,
            pipeline_id=self.segment_id,
            run_id=self.run_id,
            tenant_id=self.tenant_id,
            pipeline_version=self.definition_hash,
            phase=phase or (PipelinePhase.WAITING_HUMAN if asks else PipelinePhase.PAUSED),
            global_state={"segment": self.to_dict()},
            completed_steps=list(self.completed_steps),
            next_steps=[step.step_id for step in self.steps if step.state in ("ready", "running")],
            current_step=self.current_step or "",
            pending_approvals=list(pending_approvals),
            created_at=self.created_at,
            started_at=self.original_started_at,
            paused_at=self.created_at if snapshot_type is SnapshotType.PAUSE else None,
            metadata=dict(metadata or {}),
        )
        snapshot.checksum = snapshot.compute_checksum()
        return snapshot

    @classmethod
    def of_pipeline(cls, snapshot: PipelineSnapshot) -> Self | None:
        """The opposite of :meth:`as_pipeline`; None when it is not one that was taken of a run.

        Raises :class:`SnapshotIntegrityError`.
        """
        document = snapshot.global_state.get("segment")
        if not isinstance(document, dict):
            return None
        try:
            return cls.from_dict(document)
        except ValidationError:
            raise SnapshotIntegrityError(snapshot.snapshot_id) from None
