"""What callers use: taking snapshots of pipelines and going back to them."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, TypedDict, Unpack

from llmteam.audit import AuditEventType, AuditSeverity, AuditTrail
from llmteam.ids import Clock, random_id, utc_now
from llmteam.persistence.documents import check_signature, sealed
from llmteam.persistence.exceptions import SnapshotFormatError, SnapshotIntegrityError, SnapshotSerializationError
from llmteam.persistence.models import AgentSnapshot, PipelinePhase, PipelineSnapshot, RestoreResult, SnapshotType
from llmteam.persistence.stores import SnapshotStore
from llmteam.tenancy.context import get_current_tenant

#: Fields that the short form of :meth:`SnapshotManager.create_snapshot` also finds in ``metadata``.
_IN_METADATA = (
    "run_id",
    "phase",
    "global_state",
    "snapshot_type",
    "pipeline_version",
    "completed_steps",
    "current_step",
    "next_steps",
    "pending_actions",
    "pending_approvals",
)


class SnapshotFields(TypedDict, total=False):
    """What :meth:`SnapshotManager.create_snapshot` takes besides; :class:`PipelineSnapshot` has the defaults."""

    agents_state: Mapping[str, Any] | None
    snapshot_type: SnapshotType | str
    pipeline_version: str
    agent_snapshots: dict[str, AgentSnapshot]
    completed_steps: list[str]
    next_steps: list[str]
    current_step: str
    pending_actions: list[str]
    pending_approvals: list[str]
    started_at: datetime | None
    paused_at: datetime | None
    total_tokens: int
    total_actions: int
    total_approvals: int


class AgentFields(TypedDict, total=False):
    """What :meth:`SnapshotManager.save_agent_snapshot` takes besides."""

    messages: list[dict[str, Any]]
    completed_steps: list[str]
    current_step: str
    tokens_used: int
    execution_time_ms: int


class SnapshotManager:
    """Takes, lists and restores snapshots of the current tenant.

    Args:
        store: where they are kept.
        audit_trail: told of each that is taken, restored, deleted or refused.
        auto_snapshot_interval: finished steps between two that :meth:`on_step_complete` takes; 0 for none.
        keys: secrets by tenant id. Snapshots of these tenants are signed, and refused without the right signature.
    """

    def __init__(
        self,
        store: SnapshotStore,
        audit_trail: AuditTrail | None = None,
        *,
        auto_snapshot_interval: int = 0,
        keys: Mapping[str, bytes] | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.store = store
        self.audit_trail = audit_trail
        self.auto_snapshot_interval = auto_snapshot_interval
        self._keys = dict(keys or {})
        self._clock = clock

    async def create_snapshot(
        self,
        pipeline_id: str,
        run_id: str | Mapping[str, Any] | None = None,
        phase: PipelinePhase | str | Mapping[str, Any] | None = None,
        global_state: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **fields: Unpack[SnapshotFields],
    ) -> PipelineSnapshot:
        """Take a snapshot, keep it and return it.

        Two forms: ``create_snapshot(pipeline_id, agents_state, metadata)`` with the state of each agent by its name (a
        dictionary or an :class:`AgentSnapshot`), and ``create_snapshot(pipeline_id, run_id, phase, global_state, …)``.
        In the first, ``metadata`` may name ``run_id`` (else the pipeline's id), ``phase`` (else paused) and the like.

        Raises :class:`SnapshotSerializationError` for what cannot be kept, secrets among it,
        :class:`SnapshotTooLargeError`, ``ValueError`` for an unknown phase or type.
        """
        agents: Mapping[str, Any] | None = fields.pop("agents_state", None)
        if isinstance(run_id, Mapping):
            agents, run_id = run_id, None
        if isinstance(phase, Mapping):
            metadata, phase = phase, None
        given: dict[str, Any] = {"run_id": run_id, "phase": phase, "global_state": global_state, **fields}
        if agents is not None:
            for name in _IN_METADATA:
                if given.get(name) is None and (metadata or {}).get(name) is not None:
                    given[name] = (metadata or {})[name]
            given["agent_snapshots"] = _agents(agents)
        snapshot = self._sealed(_drafted(pipeline_id, given, metadata or {}, self._clock()))
        await self.store.save(snapshot)
        paused = snapshot.snapshot_type is SnapshotType.PAUSE
        kind = AuditEventType.PIPELINE_PAUSED if paused else AuditEventType.DATA_CREATED
        await self._audit(kind, "create", snapshot)
        return snapshot

    async def on_step_complete(
        self,
        pipeline_id: str,
        run_id: str,
        global_state: Mapping[str, Any],
        **fields: Unpack[SnapshotFields],
    ) -> PipelineSnapshot | None:
        """Take a snapshot of type AUTO each ``auto_snapshot_interval`` of ``completed_steps``; else None."""
        over = len(fields.get("completed_steps", ()))
        if self.auto_snapshot_interval < 1 or over == 0 or over % self.auto_snapshot_interval:
            return None
        fields.setdefault("snapshot_type", SnapshotType.AUTO)
        return await self.create_snapshot(pipeline_id, run_id, PipelinePhase.RUNNING, global_state, **fields)

    async def restore_snapshot(
        self,
        snapshot_id: str,
        *,
        strict: bool = False,
        agents: Collection[str] | None = None,
        pipeline_version: str | None = None,
    ) -> RestoreResult | None:
        """What a snapshot holds, to go on from; None when there is none of this id. May be called again.

        One that is damaged, forged or of an unknown format gives a result without success and without state; with
        ``strict`` it raises :class:`SnapshotIntegrityError` or :class:`SnapshotFormatError`. ``agents`` are those that
        the caller has: others are left out with a warning, as another ``pipeline_version`` is warned of.
        """
        try:
            snapshot = await self.get_snapshot(snapshot_id)
        except (SnapshotIntegrityError, SnapshotFormatError) as exc:
            if strict:
                raise
            return RestoreResult(False, snapshot_id, "", PipelinePhase.FAILED, "", warnings=[str(exc)])
        if snapshot is None:
            return None
        result = _restored(snapshot, agents, pipeline_version)
        await self._audit(AuditEventType.PIPELINE_RESUMED, "restore", snapshot)
        return result

    async def save_agent_snapshot(
        self,
        snapshot: PipelineSnapshot,
        agent_name: str,
        agent_state: Mapping[str, Any],
        agent_context: Mapping[str, Any] | None = None,
        **fields: Unpack[AgentFields],
    ) -> None:
        """Add an agent's part to ``snapshot``, or replace it, and keep that under the same id."""
        agent = AgentSnapshot(agent_name, dict(agent_state), dict(agent_context or {}), **fields)
        grown = replace(snapshot, agent_snapshots={**snapshot.agent_snapshots, agent_name: agent})
        fresh = self._sealed(grown)
        await self.store.save(fresh)
        snapshot.agent_snapshots[agent_name] = agent
        snapshot.checksum, snapshot.checksum_version = fresh.checksum, fresh.checksum_version
        snapshot.signature = fresh.signature

    async def get_snapshot(self, snapshot_id: str) -> PipelineSnapshot | None:
        """A snapshot; None when there is none. Raises :class:`SnapshotIntegrityError`, :class:`SnapshotFormatError`."""
        return next(iter(await self._checked(_all(self.store.load(snapshot_id)), snapshot_id)), None)

    async def get_latest_snapshot(self, run_id: str) -> PipelineSnapshot | None:
        """The latest snapshot of a run. Raises as :meth:`get_snapshot`."""
        return next(iter(await self._checked(_all(self.store.load_latest(run_id)))), None)

    async def list_snapshots(self, pipeline_id: str, limit: int = 10) -> list[PipelineSnapshot]:
        """The latest of a pipeline, newest first. Raises as :meth:`get_snapshot`."""
        return await self._checked(self.store.list(pipeline_id, limit))

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Forget a snapshot, a damaged one too; one that is unknown is ignored."""
        await self.store.delete(snapshot_id)
        await self._audit(AuditEventType.DATA_DELETED, "delete", snapshot_id)

    def _sealed(self, snapshot: PipelineSnapshot) -> PipelineSnapshot:
        return sealed(snapshot, self._keys.get(snapshot.tenant_id))

    async def _checked(
        self, loading: Awaitable[list[PipelineSnapshot]], asked: str | None = None
    ) -> list[PipelineSnapshot]:
        """What is loaded, unless something is wrong with it: then the trail has it before the error goes on.

        ``asked`` is the id that was asked for, since one that is damaged may name another.
        """
        try:
            found = await loading
            for snapshot in found:
                check_signature(snapshot, self._keys.get(get_current_tenant() or snapshot.tenant_id))
        except (SnapshotIntegrityError, SnapshotFormatError) as exc:
            await self._audit(AuditEventType.PIPELINE_RESUMED, "restore", asked or exc.snapshot_id, refused=str(exc))
            raise
        return found

    async def _audit(
        self, kind: AuditEventType, action: str, about: PipelineSnapshot | str, *, refused: str = ""
    ) -> None:
        if self.audit_trail is None:
            return
        told: dict[str, Any] = {}
        if isinstance(about, PipelineSnapshot):
            told = {
                "pipeline_id": about.pipeline_id,
                "run_id": about.run_id,
                "phase": about.phase.value,
                "type": about.snapshot_type.value,
            }
        await self.audit_trail.log(
            kind,
            severity=AuditSeverity.ERROR if refused else AuditSeverity.INFO,
            action=action,
            resource_type="pipeline_snapshot",
            resource_id=about if isinstance(about, str) else about.snapshot_id,
            pipeline_id=told.get("pipeline_id", ""),
            run_id=told.get("run_id", ""),
            success=not refused,
            error_message=refused,
            metadata=told,
        )


async def _all(one: Awaitable[PipelineSnapshot | None]) -> list[PipelineSnapshot]:
    found = await one
    return [] if found is None else [found]


def _agents(given: Mapping[str, Any]) -> dict[str, AgentSnapshot]:
    agents = {}
    for name, state in given.items():
        if not isinstance(state, AgentSnapshot | Mapping):
            reason = f"the state of an agent is a dictionary or an AgentSnapshot, not a {type(state).__name__}"
            raise SnapshotSerializationError(f"$.agents_state.{name}", reason)
        agents[name] = state if isinstance(state, AgentSnapshot) else AgentSnapshot(name, dict(state))
    return agents


def _drafted(
    pipeline_id: str, given: Mapping[str, Any], metadata: Mapping[str, Any], now: datetime
) -> PipelineSnapshot:
    values = {name: value for name, value in given.items() if value is not None}
    return PipelineSnapshot(
        snapshot_id=random_id(),
        snapshot_type=SnapshotType(values.pop("snapshot_type", SnapshotType.MANUAL)),
        pipeline_id=pipeline_id,
        run_id=values.pop("run_id", pipeline_id),
        tenant_id=get_current_tenant(),
        pipeline_version=values.pop("pipeline_version", "1.0"),
        phase=PipelinePhase(values.pop("phase", PipelinePhase.PAUSED)),
        global_state=dict(values.pop("global_state", {})),
        metadata=dict(metadata),
        created_at=now,
        **values,
    )


def _restored(
    snapshot: PipelineSnapshot, agents: Collection[str] | None, pipeline_version: str | None
) -> RestoreResult:
    skipped = [] if agents is None else [name for name in snapshot.agent_snapshots if name not in agents]
    warnings = [f"agent '{name}' is not here: its state is left out" for name in skipped]
    if pipeline_version is not None and pipeline_version != snapshot.pipeline_version:
        warnings.append(f"taken of version {snapshot.pipeline_version} of the pipeline, now it is {pipeline_version}")
    return RestoreResult(
        True,
        snapshot.snapshot_id,
        snapshot.run_id,
        snapshot.phase,
        snapshot.current_step,
        warnings=warnings,
        skipped_agents=skipped,
        pipeline_id=snapshot.pipeline_id,
        agents_state={name: state for name, state in snapshot.agents_state.items() if name not in skipped},
        global_state=snapshot.global_state,
        metadata=snapshot.metadata,
        completed_steps=snapshot.completed_steps,
        next_steps=snapshot.next_steps,
        pending_actions=snapshot.pending_actions,
        pending_approvals=snapshot.pending_approvals,
        snapshot=snapshot,
    )
