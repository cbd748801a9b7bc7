"""The registry of published segments: what every store of it promises, and the one in memory."""

from __future__ import annotations

import asyncio
import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock
from typing import Any, TypeVar

from llmteam.audit.models import AuditDraft, AuditEventType
from llmteam.audit.stores import MemoryAuditStore
from llmteam.canvas.exceptions import (
    SegmentArchivedError,
    SegmentExistsError,
    SegmentValidationError,
    UnknownSegmentError,
)
from llmteam.canvas.models import SegmentDefinition
from llmteam.ids import Clock, check_identifier, utc_now
from llmteam.tenancy.context import tenant_or_current

T = TypeVar("T")

#: Tenant of segments that nobody says anything about.
DEFAULT_TENANT = "default"


@dataclass(frozen=True)
class SegmentVersion:
    """One version of a published segment, without its content."""

    segment_id: str
    version: str
    content_hash: str
    published_at: datetime
    published_by: str = ""
    archived_at: datetime | None = None

    @property
    def reference(self) -> str:
        """How a start names it: ``id@version``."""
        return f"{self.segment_id}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """The version as JSON, without the content."""
        return {
            "segment_id": self.segment_id,
            "version": self.version,
            "content_hash": self.content_hash,
            "published_at": self.published_at.isoformat(),
            "published_by": self.published_by,
            "archived_at": self.archived_at.isoformat() if self.archived_at else None,
        }


@dataclass(frozen=True)
class PublishedSegment:
    """A published version with its content."""

    version: SegmentVersion
    definition: SegmentDefinition


def parse_reference(reference: str) -> tuple[str, str | None]:
    """``id@version`` or ``id`` as id and version."""
    segment_id, _, version = reference.partition("@")
    return segment_id, version or None


class SegmentRegistry(ABC):
    """Published segments of all tenants.

    The synchronous core takes the tenant first and trusts it; the asynchronous face uses the named tenant, else the
    current one, else ``default``. ``blocks`` says whether the core waits for a server.
    """

    blocks: bool = True

    def __init__(self, clock: Clock = utc_now) -> None:
        self._clock = clock

    @abstractmethod
    def put(self, tenant_id: str, segment: SegmentDefinition, published_by: str = "") -> SegmentVersion:
        """Publish under the version that the definition has.

        Publishing the same content again changes nothing, but brings an archived version back.

        Raises:
            SegmentValidationError: the definition is unsound.
            SegmentExistsError: the version is published with other content.
        """

    @abstractmethod
    def find(self, tenant_id: str, segment_id: str, version: str | None = None) -> PublishedSegment | None:
        """That version, archived or not; without one the latest published that is not archived."""

    @abstractmethod
    def versions(
        self, tenant_id: str, segment_id: str | None = None, *, archived: bool = False
    ) -> builtins.list[SegmentVersion]:
        """Versions of one segment or of all, newest first; archived ones on request."""

    @abstractmethod
    def retire(self, tenant_id: str, segment_id: str, version: str) -> SegmentVersion | None:
        """Archive the version, once; None when there is none. Runs that were started from it go on."""

    def fetch(self, tenant_id: str, segment_id: str, version: str | None = None) -> PublishedSegment:
        """What a new run starts from. Raises :class:`UnknownSegmentError`, :class:`SegmentArchivedError`."""
        found = self.find(tenant_id, segment_id, version)
        if found is None:
            raise UnknownSegmentError(segment_id, version)
        if found.version.archived_at is not None:
            raise SegmentArchivedError(segment_id, found.version.version)
        return found

    async def publish(
        self, segment: SegmentDefinition, *, published_by: str = "", tenant_id: str | None = None
    ) -> SegmentVersion:
        """As :meth:`put`."""
        return await self._call(self.put, tenant_for(tenant_id), segment, published_by)

    async def get(
        self, segment_id: str, version: str | None = None, *, tenant_id: str | None = None
    ) -> PublishedSegment:
        """That version, archived or not, or the latest. Raises :class:`UnknownSegmentError`."""
        found = await self._call(self.find, tenant_for(tenant_id), segment_id, version)
        if found is None:
            raise UnknownSegmentError(segment_id, version)
        return found

    async def list(
        self, segment_id: str | None = None, *, archived: bool = False, tenant_id: str | None = None
    ) -> builtins.list[SegmentVersion]:
        """As :meth:`versions`."""
        tenant = tenant_for(tenant_id)
        return await self._call(lambda: self.versions(tenant, segment_id, archived=archived))

    async def archive(self, segment_id: str, version: str, *, tenant_id: str | None = None) -> SegmentVersion:
        """As :meth:`retire`. Raises :class:`UnknownSegmentError`."""
        found = await self._call(self.retire, tenant_for(tenant_id), segment_id, version)
        if found is None:
            raise UnknownSegmentError(segment_id, version)
        return found

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args) if self.blocks else function(*args)


def tenant_for(tenant_id: str | None) -> str:
    """The named tenant, else the current one, else ``default``; naming another than the current one is refused."""
    return check_identifier("tenant_id", tenant_or_current(tenant_id, "Segments") or DEFAULT_TENANT)


def checked(segment: SegmentDefinition) -> SegmentDefinition:
    """A copy of a sound definition, which later changes by its owner do not reach."""
    problems = segment.validate()
    if not segment.version or len(segment.version) > 255 or "@" in segment.version:
        problems.append("version: a published version has 1 to 255 characters, @ not among them")
    if problems:
        raise SegmentValidationError(problems)
    return segment.model_copy(deep=True)


def publication(version: SegmentVersion, by: str, *, again: bool) -> AuditDraft:
    """The record of a version that is published, or brought back from the archive."""
    return _draft(version, "restore" if again else "publish", by)


def retirement(version: SegmentVersion) -> AuditDraft:
    """The record of a version that is archived."""
    return _draft(version, "archive", "")


def _draft(version: SegmentVersion, action: str, by: str) -> AuditDraft:
    return AuditDraft(
        event_type=AuditEventType.CONFIG_CHANGED,
        pipeline_id=version.segment_id,
        actor_type="user" if by else "system",
        actor_id=by,
        action=action,
        resource_type="segment",
        resource_id=version.reference,
        new_value={"content_hash": version.content_hash},
    )


class MemorySegmentRegistry(SegmentRegistry):
    """Published segments of this process; safe for threads. ``audit`` keeps what the audit trail says of them."""

    blocks = False

    def __init__(self, clock: Clock = utc_now, audit: MemoryAuditStore | None = None) -> None:
        super().__init__(clock)
        self.audit = MemoryAuditStore(clock=clock) if audit is None else audit
        self._lock = Lock()
        self._published: dict[tuple[str, str, str], PublishedSegment] = {}

    def put(self, tenant_id: str, segment: SegmentDefinition, published_by: str = "") -> SegmentVersion:
        definition = checked(segment)
        content_hash = definition.content_hash
        key = (tenant_id, definition.segment_id, definition.version)
        with self._lock:
            known = self._published.get(key)
            is_new = known is None
            if known is None:
                fresh = SegmentVersion(*key[1:], content_hash, self._clock(), published_by)
                known = PublishedSegment(fresh, definition)
            elif known.version.content_hash != content_hash:
                raise SegmentExistsError(definition.segment_id, definition.version)
            was_archived = known.version.archived_at is not None
            self._published[key] = replace(known, version=replace(known.version, archived_at=None))
            published = self._published[key].version
            if is_new or was_archived:
                self.audit.add(tenant_id, [publication(published, published_by, again=was_archived)])
            return published

    def find(self, tenant_id: str, segment_id: str, version: str | None = None) -> PublishedSegment | None:
        if version is None:
            newest = next(iter(self.versions(tenant_id, segment_id)), None)
            version = newest.version if newest else ""
        found = self._published.get((tenant_id, segment_id, version))
        return replace(found, definition=found.definition.model_copy(deep=True)) if found else None

    def versions(
        self, tenant_id: str, segment_id: str | None = None, *, archived: bool = False
    ) -> builtins.list[SegmentVersion]:
        with self._lock:
            mine = [one.version for (tenant, _, _), one in self._published.items() if tenant == tenant_id]
        wanted = [one for one in mine if segment_id in (None, one.segment_id) and (archived or one.archived_at is None)]
        return sorted(wanted, key=lambda one: (one.published_at, one.segment_id, one.version), reverse=True)

    def retire(self, tenant_id: str, segment_id: str, version: str) -> SegmentVersion | None:
        key = (tenant_id, segment_id, version)
        with self._lock:
            known = self._published.get(key)
            if known is None:
                return None
            if known.version.archived_at is None:
                known = replace(known, version=replace(known.version, archived_at=self._clock()))
                self._published[key] = known
                self.audit.add(tenant_id, [retirement(known.version)])
            return known.version
