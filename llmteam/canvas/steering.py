"""What the async face does to runs that are under way or over: pause, resume, retry, fork."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from llmteam.canvas.local import LocalFleet
from llmteam.canvas.results import RunConfig, SegmentResult
from llmteam.canvas.runs import Runs
from llmteam.canvas.snapshots import SegmentSnapshot
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.surgery import PAUSE_GRACE_SECONDS
from llmteam.events.models import EventQuery, EventType
from llmteam.persistence.stores import SnapshotStore
from llmteam.runtime.context import RuntimeContext

T = TypeVar("T")


class _Runner(Protocol):
    """What a runner lends its steering."""

    _runs: Runs
    _local: LocalFleet | None
    _tenants: OrderedDict[str, str]

    def _tenant(self, runtime: RuntimeContext | None) -> str: ...

    def _tenant_of(self, run_id: str) -> str: ...

    def _list(self, status: SegmentStatus) -> list[str]: ...

    async def _call(self, function: Callable[..., T], *args: Any) -> T: ...

    async def _follow(
        self,
        tenant_id: str,
        run_id: str,
        config: RunConfig | None,
        runtime: RuntimeContext | None,
        *,
        stop_at_pause: bool = True,
        after_seq: int = 0,
    ) -> SegmentResult: ...


class Steering(_Runner):
    """The part of a runner that steers runs which are there already."""

    async def contexts(self, run_id: str, *, tenant_id: str | None = None) -> dict[str, dict[str, Any]]:
        """What the run's orchestrator sees of the contexts of its steps, by step id: nothing that is sealed."""
        contexts = self._runs.engine.store.contexts
        return await self._call(contexts.views, tenant_id or self._tenant_of(run_id), run_id)

    def is_paused(self, run_id: str) -> bool:
        """Whether the run is paused."""
        record = self._runs.engine.store.record(self._tenant_of(run_id), run_id)
        return record is not None and record.status is SegmentStatus.PAUSED

    def list_paused(self) -> list[str]:
        """Ids of the runs that are paused, newest first; whose, as in :meth:`SegmentRunner.list_running`."""
        return self._list(SegmentStatus.PAUSED)

    async def pause(
        self, run_id: str, *, grace: float = PAUSE_GRACE_SECONDS, tenant_id: str | None = None, by: str = ""
    ) -> str | None:
        """Pause a run and return the id of its snapshot; None when it is unknown or over.

        Running steps get ``grace`` seconds to finish; what then still runs is repeated after the resume. ``by`` is,
        here and below, who wants that, for the audit trail.
        """
        tenant = tenant_id or self._tenant_of(run_id)
        snapshot_id = await asyncio.to_thread(self._runs.surgery.pause, tenant, run_id, grace, by=by)
        if snapshot_id is not None and self._local is not None:
            self._local.stop(tenant, run_id)
        return snapshot_id

    async def resume(
        self,
        snapshot_id: str,
        runtime: RuntimeContext | None = None,
        *,
        config: RunConfig | None = None,
        tenant_id: str | None = None,
        by: str = "",
    ) -> SegmentResult:
        """Go on with a paused run, named by its snapshot or by its own id, and wait for its end; from any process.

        Raises :class:`SnapshotStaleError`, :class:`SnapshotNotFoundError`, :class:`RunStateError`.
        """
        tenant = tenant_id or (runtime.tenant_id if runtime is not None else self._tenant_of(snapshot_id))
        if self._local is not None:
            self._local.enter_loop()
        if tenant_id is None and runtime is None:
            tenant = await self._call(self._tenant_of_snapshot, tenant, snapshot_id)
        run_id = await self._call(partial(self._runs.surgery.resume, by=by), tenant, snapshot_id)
        told = await self._call(self._runs.events.select, _pauses_of(tenant, run_id))
        result = await self._follow(tenant, run_id, config, runtime, after_seq=max(event.seq or 0 for event in told))
        result.resumed_from = snapshot_id
        return result

    def _tenant_of_snapshot(self, tenant_id: str, snapshot_id: str) -> str:
        """The tenant of a run that this runner started, when a snapshot of it is all that the caller names."""
        store = self._runs.engine.store
        tenants = dict.fromkeys([tenant_id, *self._tenants.values()])
        return next((one for one in tenants if store.snapshot(one, snapshot_id) is not None), tenant_id)

    @property
    def snapshots(self) -> SnapshotStore:
        """Where snapshots of runs are: those of pauses, and those that runs take by themselves."""
        return self._runs.engine.store.snapshots

    async def get_snapshot(self, snapshot_id: str, *, tenant_id: str | None = None) -> SegmentSnapshot | None:
        """The snapshot of a run; None when there is none of this id."""
        tenant = tenant_id or await self._call(self._tenant_of_snapshot, self._tenant(None), snapshot_id)
        return await self._call(self._runs.engine.store.snapshot, tenant, snapshot_id)

    async def retry(
        self,
        run_id: str,
        *,
        new_run_id: str | None = None,
        new_keys: bool = False,
        tenant_id: str | None = None,
        by: str = "",
    ) -> str:
        """Start a new run that goes on from what failed in an ended one; its id. See :meth:`Surgery.retry`."""
        tenant = tenant_id or self._tenant_of(run_id)
        retry = partial(self._runs.surgery.retry, new_run_id=new_run_id, new_keys=new_keys, by=by)
        return await self._begun(tenant, await self._call(retry, tenant, run_id))

    async def fork(
        self,
        run_id: str,
        step_id: str,
        *,
        visit: int | None = None,
        input_data: Any = None,
        state: Mapping[str, Any] | None = None,
        new_run_id: str | None = None,
        tenant_id: str | None = None,
        by: str = "",
    ) -> str:
        """Start a new run that goes on from one step of an ended one; its id. See :meth:`Surgery.fork`."""
        tenant = tenant_id or self._tenant_of(run_id)
        fork = partial(self._runs.surgery.fork, given=input_data, state=state, new_run_id=new_run_id, by=by)
        return await self._begun(tenant, await self._call(fork, tenant, run_id, step_id, visit))

    async def _begun(self, tenant_id: str, run_id: str) -> str:
        self._tenants[run_id] = tenant_id
        return run_id


def _pauses_of(tenant_id: str, run_id: str) -> EventQuery:
    kinds = frozenset({EventType.SEGMENT_PAUSED})
    return EventQuery(tenant_id=tenant_id, run_id=run_id, event_types=kinds)
