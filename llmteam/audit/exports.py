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
from llmteam.audit.exceptions import AuditError, AuditIntegrityError, AuditStorageError
from llmteam.audit.face import AuditStoreFace, ChainEnds, base_faults, readable
from llmteam.audit.models import NO_CHECKSUM, AuditRecord
from llmteam.crypto import SigningKey, VerifyKey

HEADER, END = "llmteam.audit.export", "llmteam.audit.end"


@dataclass(frozen=True, slots=True)
class ExportVerification:
    """What a check of an export found. ``signed_by`` is the id of the key that vouches for its end, if one does.

    ``base`` is the checkpoint at which the export begins because retention removed what was before; one that begins
    behind the first record without such a checkpoint is a part.
    """

    tenant_id: str
    first: int
    last: int
    chain: ChainVerification
    signed_by: str = ""
    base: AuditCheckpoint | None = None


def export_lines(
    store: AuditStoreFace,
    tenant_id: str,
    *,
    now: datetime,
    first: int = 1,
    last: int | None = None,
    key: SigningKey | None = None,
    keys: Sequence[VerifyKey] = (),
) -> Iterator[str]:
    """The lines of an export, each a JSON object; read page by page.

    With ``keys`` one of them must have signed the checkpoint of what retention removed. Raises
    :class:`AuditIntegrityError` at the first page that does not hold: what is exported was checked before; and
    :class:`AuditStorageError` when retention removed records that were still to be exported.
    """
    ends = store.ends(tenant_id)
    try:
        yield from _lines(store, tenant_id, ends, first, last, now, key, keys)
    except AuditIntegrityError:
        if store.ends(tenant_id).base == ends.base:
            raise
        raise AuditStorageError(f"records of tenant '{tenant_id}' were removed meanwhile: export again") from None


def _lines(
    store: AuditStoreFace,
    tenant_id: str,
    ends: ChainEnds,
    first: int,
    last: int | None,
    now: datetime,
    key: SigningKey | None,
    keys: Sequence[VerifyKey],
) -> Iterator[str]:
    first = max(min(first, ends.head.sequence_number + 1), ends.base.sequence_number + 1)
    last = ends.head.sequence_number if last is None else min(last, ends.head.sequence_number)
    after = store.point_before(tenant_id, first, ends)
    checker = ChainChecker(tenant_id, first=first, after=after, vouched=[ends.head])
    for fault in base_faults(ends, keys, [ends.head]):
        checker.report(fault)
    raise_on_faults(tenant_id, checker.so_far())
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
            **_base_of(ends, first, key),
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


def _base_of(ends: ChainEnds, first: int, key: SigningKey | None) -> dict[str, Any]:
    """The checkpoint of what was removed, when the export begins there; a store that is its own authority signs now."""
    base = ends.checkpoint
    if base is None or first != base.sequence_number + 1:
        return {}
    return {"base": (base.signed(key) if ends.is_own and key is not None else base).to_dict()}


def check_export(
    lines: Iterable[str],
    *,
    checkpoints: Sequence[AuditCheckpoint] = (),
    key: VerifyKey | None = None,
    keys: Sequence[VerifyKey] = (),
) -> ExportVerification:
    """Check the lines of an export; needs no database and holds one line at a time.

    With ``key`` its end, and ``checkpoints``, must be signed with it, and the checkpoint at which it begins with it or
    one of ``keys``. Raises :class:`AuditError` for what is no export and :class:`AuditIntegrityError` for a signature
    that is not to be trusted.
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
    base = _base(header, checker, (first, after), [*keys, *([] if key is None else [key])])
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
    return ExportVerification(tenant_id, first, last, checker.finish(last), signed_by, base)


def _vouched(checker: ChainChecker, tenant_id: str, end: AuditCheckpoint | None, key: VerifyKey | None) -> str:
    """Hold the chain against the export's own end; the id of the key that signed it, empty without a signature."""
    if key is not None and (end is None or not end.signature):
        raise AuditIntegrityError(f"the export of tenant '{tenant_id}' is not signed with the key {key.key_id}")
    if end is None:
        return ""
    for point in trusted_points(tenant_id, [end], key):
        checker.vouch(point)
    return end.key_id if key is not None else ""


def _base(
    header: Mapping[str, Any], checker: ChainChecker, begins: tuple[int, str], keys: Sequence[VerifyKey]
) -> AuditCheckpoint | None:
    """The checkpoint at which the export says that it begins, held against where it does."""
    if (document := header.get("base")) is None:
        return None
    base = AuditCheckpoint.from_dict(document if isinstance(document, dict) else {})
    number, checksum = begins[0] - 1, begins[1]
    found = (base.tenant_id, base.sequence_number, base.checksum, base.removes)
    is_signed = not keys or any(map(base.is_signed_by, keys))
    if found != (header["tenant_id"], number, checksum, True) or not is_signed:
        detail = f"the checkpoint at which this export begins, of record {number}, is not to be trusted"
        checker.report(ChainFault(FaultKind.FORGED, number, "", detail))
    return base


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
