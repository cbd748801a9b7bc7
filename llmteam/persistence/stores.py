"""Where snapshots are kept: the base class and the store in memory; re-exports the one in SQL."""

from __future__ import annotations

import asyncio
import builtins
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmteam.licensing.exceptions import LicenseLimitExceededError
from llmteam.persistence.documents import MAX_BYTES, packed, read_text, sealed, unpacked, written
from llmteam.persistence.models import PipelinePhase, PipelineSnapshot, SnapshotType
from llmteam.tenancy.context import DEFAULT_TENANT, get_current_tenant
from llmteam.tenancy.exceptions import TenantContextError

if TYPE_CHECKING:
    from llmteam.persistence.postgres import PostgresSnapshotStore

__all__ = ["MemorySnapshotStore", "PostgresSnapshotStore", "SnapshotStore"]


#: Snapshots that a run takes by itself, of which the latest are kept.
AUTO_KEPT = 10


class SnapshotStore(ABC):
    """Snapshots of the current tenant, else of ``default``; those of other tenants are as if they were not there."""

    @abstractmethod
    async def save(self, snapshot: PipelineSnapshot) -> None:
        """Keep a copy; of an id that is known it replaces what was kept. A snapshot without a checksum gets one.

        Where the tenant's licence has no room for one more, the oldest of type AUTO makes it, unless that is the latest
        of a pipeline that is not over. Raises :class:`LicenseLimitExceededError` where that gives none,
        :class:`SnapshotIntegrityError` when it was changed since it was sealed, :class:`SnapshotTooLargeError`,
        :class:`SnapshotSerializationError`, :class:`TenantContextError` when it is another tenant's.
        """

    @abstractmethod
    async def load(self, snapshot_id: str) -> PipelineSnapshot | None:
        """A copy; None when there is none of this id. Raises :class:`SnapshotIntegrityError`,
        :class:`SnapshotFormatError`.
        """

    @abstractmethod
    async def load_latest(self, run_id: str) -> PipelineSnapshot | None:
        """The latest of a run. Raises as :meth:`load`."""

    @abstractmethod
    async def list(self, pipeline_id: str, limit: int = 10) -> builtins.list[PipelineSnapshot]:
        """The latest of a pipeline, newest first. Raises as :meth:`load`."""

    @abstractmethod
    async def delete(self, snapshot_id: str) -> None:
        """Forget a snapshot; one that is unknown is ignored."""


def tenant_of(snapshot: PipelineSnapshot) -> str:
    """The tenant under which a snapshot is kept. Raises :class:`TenantContextError` when another one is current."""
    current, own = get_current_tenant(), snapshot.tenant_id or DEFAULT_TENANT
    if current and current != own:
        raise TenantContextError(f"A snapshot of tenant '{own}' was saved while '{current}' is current")
    return own


def reader() -> str:
    """The tenant whose snapshots are seen."""
    return get_current_tenant() or DEFAULT_TENANT


def with_checksum(snapshot: PipelineSnapshot) -> PipelineSnapshot:
    """``snapshot``, sealed when it was not yet: the caller's own object then has its checksum, too."""
    if not snapshot.checksum:
        snapshot.checksum, snapshot.checksum_version = sealed(snapshot).checksum, 2
    return snapshot


@dataclass(frozen=True, slots=True)
class _Kept:
    """A snapshot as it is kept, with what is looked at to make room."""

    data: bytes
    run_id: str
    snapshot_type: SnapshotType
    phase: PipelinePhase

    @property
    def is_auto(self) -> bool:
        return self.snapshot_type is SnapshotType.AUTO


class MemorySnapshotStore(SnapshotStore):
    """Snapshots in this process's memory, compressed; safe for threads.

    Above ``max_snapshots`` of one tenant the oldest of that tenant goes. ``max_bytes`` bounds each, as JSON.
    ``limit_of`` says how many a tenant's licence allows, None where nothing is counted:
    ``licences.tenants.licensed("snapshots")``.
    """

    DEFAULT_MAX_SNAPSHOTS = 10_000

    def __init__(
        self,
        max_snapshots: int = DEFAULT_MAX_SNAPSHOTS,
        *,
        max_bytes: int = MAX_BYTES,
        limit_of: Callable[[str], int | None] | None = None,
    ) -> None:
        if max_snapshots < 1:
            raise ValueError(f"max_snapshots is {max_snapshots}: at least 1 is needed")
        self.max_snapshots = max_snapshots
        self.max_bytes = max_bytes
        self._limit_of = limit_of
        self._lock = threading.Lock()
        self._kept: dict[str, OrderedDict[str, _Kept]] = {}

    async def save(self, snapshot: PipelineSnapshot) -> None:
        """As :meth:`SnapshotStore.save`."""
        tenant_id = tenant_of(snapshot)
        most = None if self._limit_of is None else await asyncio.to_thread(self._limit_of, tenant_id)
        self._put(tenant_id, snapshot, written(with_checksum(snapshot), self.max_bytes), most)

    def take(self, snapshot: PipelineSnapshot) -> None:
        """Keep what a run takes by itself, if there is room for it, or it is that of a pause.

        Of type AUTO the latest :data:`AUTO_KEPT` of a run stay. Raises as :meth:`save`, but for the limit.
        """
        tenant_id, paused = snapshot.tenant_id or DEFAULT_TENANT, snapshot.snapshot_type is SnapshotType.PAUSE
        most = None if self._limit_of is None or paused else self._limit_of(tenant_id)
        with suppress(LicenseLimitExceededError):
            self._put(tenant_id, snapshot, written(snapshot, self.max_bytes), most)
        with self._lock:
            kept = self._kept.get(tenant_id, OrderedDict())
            own = [name for name, one in kept.items() if one.run_id == snapshot.run_id and one.is_auto]
            for name in own[:-AUTO_KEPT]:
                del kept[name]

    def forget_runs(self, runs: Collection[tuple[str, str]]) -> None:
        """Forget the snapshots of runs, named by tenant and id."""
        with self._lock:
            for tenant_id, kept in self._kept.items():
                for name in [name for name, one in kept.items() if (tenant_id, one.run_id) in runs]:
                    del kept[name]

    def _put(self, tenant_id: str, snapshot: PipelineSnapshot, text: str, most: int | None) -> None:
        made = _Kept(packed(text), snapshot.run_id, snapshot.snapshot_type, snapshot.phase)
        with self._lock:
            kept = self._kept.setdefault(tenant_id, OrderedDict())
            if most is not None and snapshot.snapshot_id not in kept and len(kept) >= most:
                _make_room(tenant_id, kept, most, snapshot.run_id)
            kept[snapshot.snapshot_id] = made
            while len(kept) > self.max_snapshots:
                kept.popitem(last=False)

    async def load(self, snapshot_id: str) -> PipelineSnapshot | None:
        """As :meth:`SnapshotStore.load`."""
        return self.find(reader(), snapshot_id)

    def find(self, tenant_id: str, snapshot_id: str) -> PipelineSnapshot | None:
        """As :meth:`load`, of a tenant that is named."""
        with self._lock:
            found = self._kept.get(tenant_id, OrderedDict()).get(snapshot_id)
        return None if found is None else self._unpacked(found)

    async def load_latest(self, run_id: str) -> PipelineSnapshot | None:
        """As :meth:`SnapshotStore.load_latest`."""
        return next((one for one in self._newest_first() if one.run_id == run_id), None)

    async def list(self, pipeline_id: str, limit: int = 10) -> builtins.list[PipelineSnapshot]:
        """As :meth:`SnapshotStore.list`."""
        return [one for one in self._newest_first() if one.pipeline_id == pipeline_id][: max(limit, 0)]

    async def delete(self, snapshot_id: str) -> None:
        """As :meth:`SnapshotStore.delete`."""
        with self._lock:
            self._kept.get(reader(), OrderedDict()).pop(snapshot_id, None)

    def _newest_first(self) -> builtins.list[PipelineSnapshot]:
        with self._lock:
            found = list(self._kept.get(reader(), {}).values())
        # Of one moment the one that was kept later is the newer one: sorting is stable.
        return sorted((self._unpacked(one) for one in reversed(found)), key=lambda one: one.created_at, reverse=True)

    def _unpacked(self, kept: _Kept) -> PipelineSnapshot:
        return read_text(unpacked(kept.data, self.max_bytes))


def _make_room(tenant_id: str, kept: OrderedDict[str, _Kept], most: int, run_id: str) -> None:
    """As ``llmteam.snapshot_has_room`` in SQL."""
    latest = {one.run_id: name for name, one in kept.items()}
    spare = [
        name
        for name, one in kept.items()
        if one.is_auto and (one.run_id == run_id or one.phase.is_over or latest[one.run_id] != name)
    ]
    wanted = len(kept) - most + 1
    if len(spare) < wanted:
        raise LicenseLimitExceededError(tenant_id, "snapshots", len(kept), most)
    for name in spare[:wanted]:
        del kept[name]


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresSnapshotStore":
        from llmteam.persistence.postgres import PostgresSnapshotStore

        return PostgresSnapshotStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
