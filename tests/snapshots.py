"""A snapshot of a pipeline, as tests need one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from llmteam.persistence import AgentSnapshot, PipelinePhase, PipelineSnapshot, SnapshotType

NOW = datetime(2026, 3, 1, 8, 16, tzinfo=UTC)


def snapshot(**given: Any) -> PipelineSnapshot:
    values: dict[str, Any] = {
        "snapshot_id": "s-1",
        "snapshot_type": SnapshotType.PAUSE,
        "pipeline_id": "invoice_triage",
        "run_id": "run-77",
        "tenant_id": "acme",
        "pipeline_version": "1.0.0",
        "phase": PipelinePhase.WAITING_HUMAN,
        "global_state": {"input": {"id": 17}, "since": NOW},
        "agent_snapshots": {"risk": AgentSnapshot("risk", {"score": 4}, messages=[{"at": NOW}])},
        "completed_steps": ["load"],
        "next_steps": ["book"],
        "pending_approvals": ["req-5"],
        "created_at": NOW,
        "started_at": NOW,
        "metadata": {"reason": "approval"},
    }
    return PipelineSnapshot(**{**values, **given})
