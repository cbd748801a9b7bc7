"""Compliance reports: a period counted in the store, and its part of the chain checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from llmteam.audit.chain import ChainVerification
from llmteam.audit.exceptions import InvalidAuditQueryError
from llmteam.audit.models import AuditEventType, AuditQuery, AuditReport
from llmteam.audit.stores import AuditStoreFace, AuditSummary
from llmteam.crypto import VerifyKey
from llmteam.ids import as_utc, new_id

#: Records that a report shows of each kind of failure.
EXAMPLES = 100

_SECURITY = [one for one in AuditEventType if one.is_security]


def build_report(
    store: AuditStoreFace,
    tenant_id: str,
    start: datetime,
    end: datetime,
    *,
    now: datetime,
    include_records: bool = False,
    generated_by: str = "system",
    keys: Sequence[VerifyKey] = (),
) -> AuditReport:
    """The report of a period, both ends included; naive ones are read as UTC.

    However many records there are, only the examples are read whole, unless ``include_records`` asks for all. With
    ``keys`` one of them must have signed the checkpoint of what retention removed. Raises
    :class:`InvalidAuditQueryError` when the period ends before it begins.
    """
    start, end = as_utc(start), as_utc(end)
    if end < start:
        raise InvalidAuditQueryError(f"a report's period ends before it begins: {start} to {end}")
    counted = store.summarize(tenant_id, start, end)
    checked = _checked(store, tenant_id, counted, keys)
    period = AuditQuery(tenant_id=tenant_id, start_time=start, end_time=end, limit=EXAMPLES)
    failed = replace(period, success=False)
    return AuditReport(
        report_id=new_id(),
        generated_at=now,
        generated_by=generated_by,
        period_start=start,
        period_end=end,
        tenant_id=tenant_id,
        total_events=counted.total,
        events_by_type=counted.by_type,
        events_by_severity=counted.by_severity,
        events_by_actor=counted.by_actor,
        events_by_day=counted.by_day,
        security_incidents=store.select(replace(failed, event_types=_SECURITY)),
        failed_operations=store.select(failed),
        records=store.select(replace(period, limit=counted.total)) if include_records else [],
        chain_valid=checked.valid,
        missing_sequence_numbers=checked.missing,
        security_incidents_total=counted.incidents,
        failed_operations_total=counted.failed,
        invalid_record_ids=checked.invalid_record_ids,
        removed_up_to=checked.removed,
    )


def _checked(
    store: AuditStoreFace, tenant_id: str, counted: AuditSummary, keys: Sequence[VerifyKey]
) -> ChainVerification:
    """The check of the period's records and of those next to them, so that nothing is missing at its edges."""
    ends = store.ends(tenant_id)
    head = ends.head.sequence_number
    if not counted.total:
        return store.check(tenant_id, max(head, 1), head, keys=keys)
    return store.check(tenant_id, counted.first, counted.last + 1 if counted.last < ends.last else head, keys=keys)
