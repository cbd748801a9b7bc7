"""Exports: a part of a chain as lines of JSON that anyone can check without the database.

The first line says whose records follow and to what they are tied, one line for each record follows, and the last line
says where they end: a signed checkpoint when there is a key, else the place alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmteam import codec
from llmteam.audit import canonical
from llmteam.audit.chain import (
    ChainChecker,
    ChainFault,
    ChainPoint,
    ChainVerification,
    FaultKind,
    UnreadableRecord,
    raise_on_faults,
)
from llmteam.audit.checkpoints import KIND as CHECKPOINT
from llmteam.audit.checkpoints import AuditCheckpoint, trusted_points
from llmteam.audit.exceptions import AuditError, AuditIntegrityError
from llmteam.audit.models import NO_CHECKSUM, AuditRecord
from llmteam.audit.stores import AuditStoreFace, readable
from llmteam.crypto import SigningKey, VerifyKey

HEADER, END = "llmteam.audit.export", "llmteam.audit.end"


@dataclass(frozen=True, slots=True)
class ExportVerification:
    """What a check of an export found. ``signed_by`` is the id of the key that vouches for its end, if one does."""

    tenant_id: str
    first: int
    last: int
    chain: ChainVerification
    signed_by: str = ""


def export_lines(
    store: AuditStoreFace,
    tenant_id: str,
    *,
    now: datetime,
    first: int = 1,
    last: int | None = None,
    key: SigningKey | None = None,
) -> Iterator[str]:
    """The lines of an export, each a JSON object; read page by page.

    Raises :class:`AuditIntegrityError` at the first page that does not hold: what is exported was checked before.
    """
    ends = store.ends(tenant_id)
    first = max(min(first, ends.head.sequence_number + 1), ends.base.sequence_number + 1)
    last = ends.head.sequence_number if last is None else min(last, ends.head.sequence_number)
    after = store.point_before(tenant_id, first, ends)
    checker = ChainChecker(tenant_id, first=first, after=after, vouched=[ends.head])
    place = ChainPoint(first - 1, "") if after is None else after
    yield codec.dumps(
        {
            "kind": HEADER,
            "version": 1,
            "tenant_id": tenant_id,
            "exported_at": canonical.moment(now),
            "first": first,
            "last": max(last, first - 1),
            "after": place.checksum,
        }
    )
    for page in store.pages(tenant_id, first, last):
        checker.feed(page)
        raise_on_faults(tenant_id, checker.so_far())
        for record in map(readable, page):
            yield codec.dumps(record.to_dict())
            place = ChainPoint.of(record)
    raise_on_faults(tenant_id, checker.finish(last))
    end = AuditCheckpoint(tenant_id, place.sequence_number, place.checksum, now)
    yield codec.dumps({**end.to_dict(), "kind": END} if key is None else end.signed(key).to_dict())


def check_export(
    lines: Iterable[str], *, checkpoints: Sequence[AuditCheckpoint] = (), key: VerifyKey | None = None
) -> ExportVerification:
    """Check the lines of an export; needs no database and holds one line at a time.

    With ``key`` its end, and ``checkpoints``, must be signed with it. Raises :class:`AuditError` for what is no export
    and :class:`AuditIntegrityError` for a signature that is not to be trusted.
    """
    documents = (_document(number, line) for number, line in enumerate(lines, 1) if line.strip())
    header = next(documents, {})
    tenant_id, first, last, after = _header(header)
    checker = ChainChecker(
        tenant_id,
        first=first,
        after=ChainPoint(first - 1, after),
        vouched=trusted_points(tenant_id, checkpoints, key),
        end=last,
    )
    end: AuditCheckpoint | None = None
    for document in documents:
        if end is not None:
            raise AuditError("this is no whole export: lines follow its last one")
        if document.get("kind") in {CHECKPOINT, END}:
            end = AuditCheckpoint.from_dict({**document, "kind": CHECKPOINT})
        else:
            checker.feed([_record(document)])
    signed_by = _vouched(checker, tenant_id, end, key)
    if end is None:
        checker.report(ChainFault(FaultKind.TRUNCATED, last, "", "the export's last line is missing"))
    else:
        # The first line can be rewritten by anyone, a signed end cannot.
        last = max(last, end.sequence_number)
    return ExportVerification(tenant_id, first, last, checker.finish(last), signed_by)


def _vouched(checker: ChainChecker, tenant_id: str, end: AuditCheckpoint | None, key: VerifyKey | None) -> str:
    """Hold the chain against the export's own end; the id of the key that signed it, empty without a signature."""
    if key is not None and (end is None or not end.signature):
        raise AuditIntegrityError(f"the export of tenant '{tenant_id}' is not signed with the key {key.key_id}")
    if end is None:
        return ""
    for point in trusted_points(tenant_id, [end], key):
        checker.vouch(point)
    return end.key_id if key is not None else ""


def _document(number: int, line: str) -> Mapping[str, Any]:
    try:
        document = codec.loads(line)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise AuditError(f"line {number} is no JSON object: this is no export of an audit trail")
    return document


def _header(document: Mapping[str, Any]) -> tuple[str, int, int, str]:
    if (document.get("kind"), document.get("version")) != (HEADER, 1):
        raise AuditError(f"this is no export of version 1: the first line of one has the kind {json.dumps(HEADER)}")
    try:
        return str(document["tenant_id"]), int(document["first"]), int(document["last"]), str(document["after"])
    except (KeyError, TypeError, ValueError):
        raise AuditError("the first line of this export does not say which records follow") from None


def _record(document: Mapping[str, Any]) -> AuditRecord | UnreadableRecord:
    try:
        return AuditRecord.from_dict(document)
    except AuditError:
        number, record_id, checksum = (document.get(name) for name in ("sequence_number", "record_id", "checksum"))
        if not isinstance(number, int):
            raise
        return UnreadableRecord(number, str(record_id or ""), str(checksum or NO_CHECKSUM))
