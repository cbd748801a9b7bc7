"""Snapshots as values: what a pipeline had done and what its agents knew at one moment. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from hmac import compare_digest
from typing import Any, Self

from llmteam import codec
from llmteam.ids import as_utc, utc_now
from llmteam.persistence.exceptions import SnapshotFormatError, SnapshotSerializationError
from llmteam.persistence.values import decode, encode

__all__ = ["AgentSnapshot", "PipelinePhase", "PipelineSnapshot", "RestoreResult", "SnapshotType"]

#: The format that is written, and the newest that is read.
SNAPSHOT_VERSION = "1.0"

#: Checksums over every field are of version 2; version 1 covers some of them.
CHECKSUM_VERSION = 2

_STATE_FIELDS = ("state", "context", "messages", "global_state", "metadata")
_TIMES = ("created_at", "started_at", "paused_at")
#: What a checksum does not cover: itself, and the signature, which covers it.
_OUTSIDE = ("checksum", "signature")


class SnapshotType(StrEnum):
    """Why a snapshot was taken."""

    AUTO = "auto"
    MANUAL = "manual"
    CHECKPOINT = "checkpoint"
    PAUSE = "pause"
    ERROR = "error"


class PipelinePhase(StrEnum):
    """What the pipeline was doing."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    WAITING_HUMAN = "waiting_human"
    WAITING_ACTION = "waiting_action"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        return self in (PipelinePhase.COMPLETED, PipelinePhase.FAILED)


@dataclass
class AgentSnapshot:
    """One agent's part of a snapshot."""

    agent_name: str
    state: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    completed_steps: list[str] = field(default_factory=list)
    current_step: str = ""
    tokens_used: int = 0
    execution_time_ms: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON. Raises :class:`SnapshotSerializationError`."""
        return _written(self, f"$.agent_snapshots.{self.agent_name}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The opposite of :meth:`to_dict`. Raises ``TypeError`` for fields that are unknown."""
        return cls(**_read(data))


@dataclass
class PipelineSnapshot:
    """What a pipeline had done at one moment. Of a run it is what a pause, or the caller, has taken of it.

    ``checksum`` covers every field but itself and ``signature``, an HMAC-SHA-256 over the checksum that only holders
    of the tenant's key can make. Times are aware UTC. In the four dictionaries and in messages, dates, decimals, bytes,
    sets and the like are kept with their types.
    """

    snapshot_id: str
    snapshot_type: SnapshotType
    pipeline_id: str
    run_id: str
    tenant_id: str
    pipeline_version: str
    phase: PipelinePhase
    snapshot_version: str = SNAPSHOT_VERSION
    global_state: dict[str, Any] = field(default_factory=dict)
    agent_snapshots: dict[str, AgentSnapshot] = field(default_factory=dict)
    completed_steps: list[str] = field(default_factory=list)
    next_steps: list[str] = field(default_factory=list)
    current_step: str = ""
    pending_actions: list[str] = field(default_factory=list)
    pending_approvals: list[str] = field(default_factory=list)
    created_at: datetime = field(default_factory=utc_now)
    started_at: datetime | None = None
    paused_at: datetime | None = None
    total_tokens: int = 0
    total_actions: int = 0
    total_approvals: int = 0
    checksum: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    checksum_version: int = CHECKSUM_VERSION
    signature: str = ""

    @property
    def agents_state(self) -> dict[str, dict[str, Any]]:
        """Each agent's state, by its name."""
        return {name: agent.state for name, agent in self.agent_snapshots.items()}

    def compute_checksum(self) -> str:
        """SHA-256, as 64 hexadecimal digits, of the canonical JSON of what a checksum of this version covers.

        Raises :class:`SnapshotSerializationError`.
        """
        return self.checksum_of(self.to_dict())

    def checksum_of(self, document: Mapping[str, Any]) -> str:
        """:meth:`compute_checksum` for whoever has :meth:`to_dict` at hand."""
        if self.checksum_version == 1:
            return self._partial_checksum()
        return codec.digest(codec.canonical({key: part for key, part in document.items() if key not in _OUTSIDE}))

    def _partial_checksum(self) -> str:
        """Version 1, as llmteam-ai 2.0.0 computed it, of six fields."""
        covered = {
            "pipeline_id": self.pipeline_id,
            "run_id": self.run_id,
            "phase": self.phase.value,
            "global_state": json.dumps(encode(self.global_state, "$.global_state"), sort_keys=True),
            "completed_steps": self.completed_steps,
            "current_step": self.current_step,
        }
        return codec.digest(json.dumps(covered, sort_keys=True))

    def verify(self) -> bool:
        """Whether nothing that the checksum covers was changed since it was computed."""
        return compare_digest(self.checksum.encode(), self.compute_checksum().encode())

    def to_dict(self) -> dict[str, Any]:
        """As JSON: enumerations as values, times in ISO 8601, values with types as tagged objects.

        Raises :class:`SnapshotSerializationError`.
        """
        document = _written(self, "$")
        document["agent_snapshots"] = {name: agent.to_dict() for name, agent in self.agent_snapshots.items()}
        return document

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The opposite of :meth:`to_dict`; nothing is verified. Raises :class:`SnapshotFormatError`."""
        name = str(data.get("snapshot_id", ""))
        try:
            given = _read(data)
            given["snapshot_type"] = SnapshotType(given["snapshot_type"])
            given["phase"] = PipelinePhase(given["phase"])
            agents = given.get("agent_snapshots", {})
            given["agent_snapshots"] = {key: AgentSnapshot.from_dict(agent) for key, agent in agents.items()}
            return cls(**given)
        except SnapshotSerializationError as exc:
            raise SnapshotFormatError(name, str(exc)) from None
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise SnapshotFormatError(name, f"its fields are not those of a snapshot ({type(exc).__name__})") from None


@dataclass
class RestoreResult:
    """What a snapshot gave back; true when it did. Without success nothing is restored and ``warnings`` say why."""

    success: bool
    snapshot_id: str
    run_id: str
    phase: PipelinePhase
    current_step: str
    warnings: list[str] = field(default_factory=list)
    skipped_agents: list[str] = field(default_factory=list)
    skipped_steps: list[str] = field(default_factory=list)
    pipeline_id: str = ""
    agents_state: dict[str, dict[str, Any]] = field(default_factory=dict)
    global_state: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    completed_steps: list[str] = field(default_factory=list)
    next_steps: list[str] = field(default_factory=list)
    pending_actions: list[str] = field(default_factory=list)
    pending_approvals: list[str] = field(default_factory=list)
    snapshot: PipelineSnapshot | None = None

    def __bool__(self) -> bool:
        return self.success


def _written(record: AgentSnapshot | PipelineSnapshot, path: str) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for one in fields(record):
        value = getattr(record, one.name)
        if one.name in _TIMES:
            value = None if value is None else as_utc(value).isoformat()
        elif one.name == "agent_snapshots":
            continue
        elif isinstance(value, StrEnum):
            value = value.value
        else:
            value = encode(value, f"{path}.{one.name}")
        document[one.name] = value
    return document


def _read(data: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(data)
    for name in _STATE_FIELDS:
        if name in given:
            given[name] = decode(given[name], f"$.{name}")
    for name in _TIMES:
        if given.get(name) is not None:
            given[name] = as_utc(datetime.fromisoformat(given[name]))
    return given
