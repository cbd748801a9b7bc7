"""Appending to a tenant's chain: under the lock of its head row, in the transaction of the change that is told of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from llmteam import codec, metrics
from llmteam.audit.canonical import Sensitive
from llmteam.audit.chain import GENESIS, ChainPoint, link, link_all, stored_key
from llmteam.audit.exceptions import AuditIntegrityError
from llmteam.audit.models import NO_CHECKSUM, AuditDraft, AuditRecord
from llmteam.db.hot import HotConnection, Prepared
from llmteam.db.tables import audit_heads as heads
from llmteam.db.tables import audit_log as table
from llmteam.masking import is_secret_name

_COLUMNS = tuple(column.name for column in table.columns)
_NAMES = ", ".join(_COLUMNS)
_LOGGED = ", ".join(f"l.{name}" for name in _COLUMNS)
_JSON = frozenset({"old_value", "new_value", "metadata"})

_INSERT = Prepared(
    "llmteam_audit_insert", f"INSERT INTO {table.fullname} ({_NAMES}) VALUES ({', '.join(['%s'] * len(_COLUMNS))})"
)
_MAKE_HEAD = Prepared(
    "llmteam_audit_make_head", f"INSERT INTO {heads.fullname} (tenant_id) VALUES (%s) ON CONFLICT DO NOTHING"
)
_LOCK_HEAD = Prepared(
    "llmteam_audit_lock_head",
    f"SELECT sequence_number, checksum FROM {heads.fullname} WHERE tenant_id = %s FOR NO KEY UPDATE",
)
# A statement of its own behind the lock: its snapshot has what the holder before us has written.
_READ_HEAD = Prepared(
    "llmteam_audit_read_head",
    f"SELECT h.sequence_number, h.checksum, {_LOGGED} FROM {heads.fullname} h LEFT JOIN {table.fullname} l"
    " ON l.tenant_id = h.tenant_id AND l.idempotency_key = ANY (%s::text[]) WHERE h.tenant_id = %s",
)
_MOVE_HEAD = Prepared(
    "llmteam_audit_move_head", f"UPDATE {heads.fullname} SET sequence_number = %s, checksum = %s WHERE tenant_id = %s"
)
#: What the database finds out itself when it links a record.
_LINKED = {"sequence_number": "number", "previous_checksum": "before", "checksum": "made"}
_CAST = postgresql.dialect()  # type: ignore[no-untyped-call]


def _appending(name: str, condition: str) -> Prepared:
    """Numbers, links and keeps one record; a statement behind :data:`_LOCK_HEAD`, so that it sees the last one."""
    values = ", ".join(
        _LINKED.get(column.name, f"%s::{column.type.compile(dialect=_CAST)}") for column in table.columns
    )
    return Prepared(
        name,
        f"""
WITH linked AS (
  SELECT sequence_number + 1 AS number, checksum AS before,
         encode(sha256(convert_to(%s || checksum || %s || sequence_number + 1 || %s, 'UTF8')), 'hex') AS made
    FROM {heads.fullname} WHERE tenant_id = %s{condition}),
moved AS (
  UPDATE {heads.fullname} SET sequence_number = number, checksum = made FROM linked WHERE tenant_id = %s)
INSERT INTO {table.fullname} ({_NAMES}) SELECT {values} FROM linked
""",
    )


_APPEND = _appending("llmteam_audit_append", "")
#: The same, if an earlier statement of the transaction has set :data:`CONDITION` to ``yes``.
CONDITION = "llmteam.audited"
_APPEND_IF = _appending("llmteam_audit_append_if", f" AND current_setting('{CONDITION}', true) = 'yes'")


class Script(Protocol):
    """A script of statements that is sent in one round trip."""

    def add(self, statement: Prepared, *params: Any) -> Any: ...


def write_in(
    script: Script, tenant_id: str, drafts: Sequence[AuditDraft], *, now: datetime, conditional: bool = False
) -> None:
    """Add the appending of ``drafts`` to a script of the caller's transaction; only its commit may follow.

    The database links the records, so that this costs no round trip, and the tenant's head row, the last lock of the
    lock order, is held for no longer than the commit takes. ``conditional``: the records are written only if
    :data:`CONDITION` is ``yes`` by then. Whoever needs the records, or drafts with idempotency keys, takes
    :func:`append_in`. Raises :class:`NotJSONError`.
    """
    if not drafts:
        return
    script.add(_MAKE_HEAD, tenant_id)
    script.add(_LOCK_HEAD, tenant_id)
    for draft in drafts:
        record = link(draft, tenant_id, GENESIS, now=now)
        values = [value for name, value in zip(_COLUMNS, _values(record), strict=True) if name not in _LINKED]
        script.add(_APPEND_IF if conditional else _APPEND, *record.open_checksum(), tenant_id, tenant_id, *values)


class _Plain:
    """A script for a connection that plans nothing ahead."""

    def __init__(self) -> None:
        self.text = ""
        self.params: tuple[Any, ...] = ()

    def add(self, statement: Prepared, *params: Any) -> None:
        self.text += statement.text + ";"
        self.params += params


def append_with(connection: Connection, tenant_id: str, drafts: Sequence[AuditDraft], *, now: datetime) -> None:
    """As :func:`write_in`, in one round trip of a ``database.tenant_transaction(tenant_id)``, as its last statement."""
    script = _Plain()
    write_in(script, tenant_id, drafts, now=now)
    if script.text:
        connection.exec_driver_sql(script.text, script.params)
    metrics.AUDIT_RECORDS.add(value=len(drafts))


def append_in(
    connection: HotConnection,
    tenant_id: str,
    drafts: Sequence[AuditDraft],
    *,
    now: datetime,
    sensitive: Sensitive = is_secret_name,
) -> list[AuditRecord]:
    """Append to the tenant's chain in the caller's own transaction, and return the records in the order of the drafts.

    The transaction is one of ``database.hot(tenant_id)`` and has begun. It takes the tenant's head row, the last lock
    of the lock order, and holds it until it ends: call this last, commit soon. Two round trips. A draft whose
    idempotency key is known gives the record that is there. Raises :class:`NotJSONError`.
    """
    return append(connection, tenant_id, drafts, now=now, sensitive=sensitive)


def append(
    connection: HotConnection,
    tenant_id: str,
    drafts: Sequence[AuditDraft],
    *,
    now: datetime,
    sensitive: Sensitive,
    whole: bool = False,
) -> list[AuditRecord]:
    """:func:`append_in`; with ``whole`` its two scripts are a transaction of their own."""
    if not drafts:
        return []
    after, known = lock_head(connection, tenant_id, drafts, begin=whole)
    records, fresh = link_all(drafts, tenant_id, after, known, now=now, sensitive=sensitive)
    insert_in(connection, tenant_id, fresh, end="COMMIT" if whole else "")
    return records


def lock_head(
    connection: HotConnection, tenant_id: str, drafts: Sequence[AuditDraft], *, begin: bool
) -> tuple[ChainPoint, dict[str, AuditRecord]]:
    """Take the head row, which is made on first use; where the chain ends, and the records that the drafts repeat."""
    keys = [key for key in map(stored_key, drafts) if key is not None]
    script, params = _MAKE_HEAD.call + _LOCK_HEAD.call, [tenant_id, tenant_id]
    if not keys:
        found = connection.script(script, params, begin=begin, prepared=(_MAKE_HEAD, _LOCK_HEAD)) or []
        return ChainPoint(*found[0]), {}
    script, values = script + _READ_HEAD.call, [*params, keys, tenant_id]
    rows = connection.script(script, values, begin=begin, prepared=(_MAKE_HEAD, _LOCK_HEAD, _READ_HEAD)) or []
    known = [record_of(dict(zip(_COLUMNS, row[2:], strict=True))) for row in rows if row[2] is not None]
    return ChainPoint(*rows[0][:2]), {record.idempotency_key or "": record for record in known}


def insert_in(connection: HotConnection, tenant_id: str, records: Sequence[AuditRecord], *, end: str = "") -> None:
    """Write finished records of the tenant and move its head to the last of them; the head row is locked."""
    script = ""
    params: list[Any] = []
    for record in records:
        script += _INSERT.call
        params += _values(record)
    if records:
        script += _MOVE_HEAD.call
        params += [records[-1].sequence_number, records[-1].checksum, tenant_id]
    if script or end:
        connection.script(script + end, params, prepared=(_INSERT, _MOVE_HEAD) if records else ())
    metrics.AUDIT_RECORDS.add(value=len(records))


def _values(record: AuditRecord) -> list[Any]:
    """The columns in the order of the table. An erased record comes in as it is."""
    payload = {name: getattr(record, name) for name in _JSON}
    values = {name: getattr(record, name) for name in _COLUMNS if name not in _JSON}
    texts = {name: None if value is None else codec.dumps(value) for name, value in payload.items()}
    given = {**values, **texts, "event_type": record.event_type.value, "severity": record.severity.value}
    if record.is_erased:
        given |= {"metadata": None, "salt": None}
    return [given[name] for name in _COLUMNS]


def record_of(row: Mapping[str, Any]) -> AuditRecord:
    """The record of a row. Raises :class:`AuditIntegrityError` when its type or severity is none."""
    values = dict(row)
    values["metadata"] = {} if values["metadata"] is None else values["metadata"]
    values["salt"] = values["salt"] or ""
    values["checksum"] = values["checksum"] or NO_CHECKSUM
    try:
        return AuditRecord(**values)
    except ValueError:
        raise AuditIntegrityError(
            f"audit record {row['sequence_number']} of tenant '{row['tenant_id']}' has a type or severity that does "
            "not exist: it was altered, or a newer llmteam wrote it",
            [row["record_id"]],
        ) from None
