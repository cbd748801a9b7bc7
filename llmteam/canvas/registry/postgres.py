"""Published segments as rows; contents stand in ``definitions``, once per tenant and hash."""

from __future__ import annotations

import builtins
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from llmteam.audit.models import AuditDraft
from llmteam.audit.postgres import append_with
from llmteam.canvas.exceptions import SegmentExistsError
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.registry.stores import (
    PublishedSegment,
    SegmentRegistry,
    SegmentVersion,
    checked,
    publication,
    retirement,
)
from llmteam.db.engine import Database
from llmteam.db.tables import definitions, segments
from llmteam.ids import Clock, as_utc, utc_now
from llmteam.tenancy.postgres.standing import check_standing

_COLUMNS = (
    segments.c.segment_id,
    segments.c.version,
    segments.c.content_hash,
    segments.c.published_at,
    segments.c.published_by,
    segments.c.archived_at,
)
_NEWEST_FIRST = (segments.c.published_at.desc(), segments.c.segment_id.desc(), segments.c.version.desc())


class PostgresSegmentRegistry(SegmentRegistry):
    """Published segments in Postgres, each tenant behind row-level security."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        super().__init__(clock)
        self._database = database

    def put(self, tenant_id: str, segment: SegmentDefinition, published_by: str = "") -> SegmentVersion:
        definition = checked(segment)
        content_hash = definition.content_hash
        with self._database.tenant_transaction(tenant_id) as connection:
            check_standing(connection, tenant_id)
            connection.execute(_insert_definition(tenant_id, definition, content_hash, self._clock()))
            is_new = connection.execute(
                insert(segments)
                .values(
                    tenant_id=tenant_id,
                    segment_id=definition.segment_id,
                    version=definition.version,
                    content_hash=content_hash,
                    definition_hash=content_hash,
                    published_at=self._clock(),
                    published_by=published_by,
                )
                .on_conflict_do_nothing()
            )
            where = _this(tenant_id, definition.segment_id, definition.version)
            archived = select(segments.c.archived_at).where(*where).with_for_update()
            was_archived = connection.scalar(archived) is not None
            # Whoever inserted first decides the content; the update takes no row of another content.
            row = connection.execute(
                update(segments)
                .where(*where)
                .where(segments.c.content_hash == content_hash)
                .values(archived_at=None)
                .returning(*_COLUMNS)
            ).one_or_none()
            if row is None:
                raise SegmentExistsError(definition.segment_id, definition.version)
            if is_new.rowcount > 0 or was_archived:
                self._told(connection, tenant_id, publication(_version(row), published_by, again=was_archived))
        return _version(row)

    def _told(self, connection: Connection, tenant_id: str, draft: AuditDraft) -> None:
        append_with(connection, tenant_id, [draft], now=self._clock())

    def find(self, tenant_id: str, segment_id: str, version: str | None = None) -> PublishedSegment | None:
        query = (
            select(*_COLUMNS, definitions.c.document)
            .join(
                definitions,
                (definitions.c.tenant_id == segments.c.tenant_id)
                & (definitions.c.definition_hash == segments.c.definition_hash),
            )
            .where(segments.c.tenant_id == tenant_id, segments.c.segment_id == segment_id)
            .where(segments.c.archived_at.is_(None) if version is None else segments.c.version == version)
            .order_by(*_NEWEST_FIRST)
            .limit(1)
        )
        with self._database.tenant_transaction(tenant_id) as connection:
            row = connection.execute(query).one_or_none()
        return PublishedSegment(_version(row), SegmentDefinition.from_dict(row.document)) if row is not None else None

    def versions(
        self, tenant_id: str, segment_id: str | None = None, *, archived: bool = False
    ) -> builtins.list[SegmentVersion]:
        query = select(*_COLUMNS).where(segments.c.tenant_id == tenant_id).order_by(*_NEWEST_FIRST)
        if segment_id is not None:
            query = query.where(segments.c.segment_id == segment_id)
        if not archived:
            query = query.where(segments.c.archived_at.is_(None))
        with self._database.tenant_transaction(tenant_id) as connection:
            return [_version(row) for row in connection.execute(query)]

    def retire(self, tenant_id: str, segment_id: str, version: str) -> SegmentVersion | None:
        where = _this(tenant_id, segment_id, version)
        archive = update(segments).where(*where, segments.c.archived_at.is_(None)).values(archived_at=self._clock())
        with self._database.tenant_transaction(tenant_id) as connection:
            row = connection.execute(archive.returning(*_COLUMNS)).one_or_none()
            if row is not None:
                self._told(connection, tenant_id, retirement(_version(row)))
            else:
                row = connection.execute(select(*_COLUMNS).where(*where)).one_or_none()
        return _version(row) if row is not None else None


def _this(tenant_id: str, segment_id: str, version: str) -> tuple[ColumnElement[bool], ...]:
    return (
        segments.c.tenant_id == tenant_id,
        segments.c.segment_id == segment_id,
        segments.c.version == version,
    )


def _insert_definition(tenant_id: str, definition: SegmentDefinition, content_hash: str, now: Any) -> Any:
    return (
        insert(definitions)
        .values(
            tenant_id=tenant_id,
            definition_hash=content_hash,
            segment_id=definition.segment_id,
            document=definition.to_dict(),
            types={},
            created_at=now,
        )
        .on_conflict_do_nothing()
    )


def _version(row: Any) -> SegmentVersion:
    return SegmentVersion(
        segment_id=row.segment_id,
        version=row.version,
        content_hash=row.content_hash,
        published_at=as_utc(row.published_at),
        published_by=row.published_by,
        archived_at=None if row.archived_at is None else as_utc(row.archived_at),
    )
