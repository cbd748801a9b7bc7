"""What callers use: one tenant's trail, to write to, to ask and to check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from types import NoneType
from typing import Any, TypedDict, Unpack

from llmteam.audit.chain import ChainVerification, raise_on_faults
from llmteam.audit.checkpoints import AuditCheckpoint, trusted_points
from llmteam.audit.exceptions import AuditError
from llmteam.audit.models import AuditDraft, AuditEventType, AuditQuery, AuditRecord, AuditReport, AuditSeverity
from llmteam.audit.reports import build_report
from llmteam.audit.stores import AuditStoreFace
from llmteam.crypto import SigningKey, VerifyKey
from llmteam.ids import Clock, utc_now
from llmteam.tenancy.context import get_current_tenant, require_tenant_context
from llmteam.tenancy.exceptions import TenantContextError

#: Whose trail it is when neither the code nor the context says so.
DEFAULT_TENANT = "default"


class AuditFields(TypedDict, total=False):
    """What :meth:`AuditTrail.log` takes besides the type; :class:`AuditDraft` has the defaults."""

    severity: AuditSeverity
    actor_type: str
    actor_id: str
    actor_ip: str
    actor_user_agent: str
    action: str
    resource_type: str
    resource_id: str
    old_value: Mapping[str, Any] | None
    new_value: Mapping[str, Any] | None
    success: bool
    error_message: str
    metadata: Mapping[str, Any] | None
    tags: Sequence[str] | None
    pipeline_id: str
    run_id: str
    agent_name: str
    step_name: str
    idempotency_key: str | None
    timestamp: datetime | None


class AuditTrail:
    """One tenant's audit trail in ``store``.

    Its tenant is ``tenant_id``, else the current one, else ``default``. While another tenant than ``tenant_id`` is
    current it refuses to work; with ``use_context_tenant=False`` it does not ask who is current.

    Every event is written, with its number and its link, before ``log`` returns. There is no buffer to lose:
    ``auto_flush`` and ``buffer_size`` are accepted and change nothing. One object may serve several threads, event
    loops and processes.
    """

    def __init__(
        self,
        store: AuditStoreFace,
        tenant_id: str = "",
        auto_flush: bool = True,
        buffer_size: int = 100,
        use_context_tenant: bool = True,
        *,
        clock: Clock = utc_now,
    ) -> None:
        self.store = store
        self.auto_flush = auto_flush
        self.buffer_size = buffer_size
        self.use_context_tenant = use_context_tenant
        self._tenant_id = tenant_id
        self._clock = clock

    @property
    def tenant_id(self) -> str:
        """The tenant whose trail it is now. Raises :class:`TenantContextError` while another one is current."""
        current = get_current_tenant() if self.use_context_tenant else ""
        if self._tenant_id and current and current != self._tenant_id:
            raise TenantContextError(
                f"This is the audit trail of tenant '{self._tenant_id}', but '{current}' is current: "
                "leave its context, or take a TenantAwareAuditTrail, which follows it"
            )
        return self._tenant_id or current or DEFAULT_TENANT

    async def initialize(self) -> None:
        """Check that the store answers. Raises :class:`AuditStorageError`."""
        await self.store.call(self.store.ends, self.tenant_id)

    async def log(self, event_type: AuditEventType, **fields: Unpack[AuditFields]) -> AuditRecord:
        """Write an event down and return its record, which is kept when this returns.

        Passwords, keys, tokens and the like are taken out of ``old_value``, ``new_value`` and ``metadata`` by the names
        of their fields. A call with an ``idempotency_key`` that is known changes nothing and gives the record that is
        there. Raises :class:`AuditStorageError`, :class:`NotJSONError`, :class:`TenantContextError`, and
        :class:`AuditError` for a field of the wrong kind.
        """
        (record,) = await self.store.call(self.store.add, self.tenant_id, [_draft(event_type, fields)])
        return record

    async def record(self, drafts: Sequence[AuditDraft]) -> list[AuditRecord]:
        """:meth:`log` for events that are drafted already, all of them or none."""
        return await self.store.call(self.store.add, self.tenant_id, drafts)

    def log_sync(self, event_type: AuditEventType, **fields: Unpack[AuditFields]) -> AuditRecord:
        """:meth:`log` for code without an event loop, like plain Celery tasks."""
        (record,) = self.store.add(self.tenant_id, [_draft(event_type, fields)])
        return record

    async def flush(self) -> None:
        """Nothing: every event is written already."""

    async def query(self, query: AuditQuery) -> list[AuditRecord]:
        """The wanted records of this tenant, the newest first unless the query says otherwise.

        Raises :class:`TenantContextError` when the query names another tenant.
        """
        tenant_id = self.tenant_id
        if query.tenant_id not in {None, tenant_id}:
            raise TenantContextError(
                f"Audit records of tenant '{query.tenant_id}' were asked for in the trail of '{tenant_id}'"
            )
        return await self.store.call(self.store.select, replace(query, tenant_id=tenant_id))

    async def verify_chain(
        self,
        start_sequence: int = 1,
        end_sequence: int | None = None,
        *,
        checkpoints: Sequence[AuditCheckpoint] = (),
        key: VerifyKey | None = None,
        raise_on_error: bool = False,
    ) -> ChainVerification:
        """Check the chain, by default all of it; unpacks as ``(valid, missing)`` and names each fault.

        Only ``checkpoints`` that were kept elsewhere tell when the whole of it was rewritten, head included; ``key``
        checks their signatures. Raises :class:`AuditIntegrityError` for a checkpoint that is not to be trusted, and
        for the first fault when ``raise_on_error`` is set.
        """
        tenant_id = self.tenant_id
        points = trusted_points(tenant_id, checkpoints, key)
        found = await self.store.call(self.store.check, tenant_id, start_sequence, end_sequence, points)
        if raise_on_error:
            raise_on_faults(tenant_id, found)
        return found

    async def checkpoint(self, key: SigningKey, *, since: AuditCheckpoint | None = None) -> AuditCheckpoint:
        """Check the chain and sign its end. With ``since``, only what was added after that checkpoint is checked.

        Raises :class:`AuditIntegrityError`: what does not hold is not vouched for.
        """
        return await self.store.call(take_checkpoint, self.store, self.tenant_id, key, self._clock(), since)

    async def generate_report(self, start: datetime, end: datetime, include_records: bool = False) -> AuditReport:
        """Count a period, both ends included, and check its part of the chain; naive times are read as UTC.

        Raises :class:`InvalidAuditQueryError` when the period ends before it begins.
        """
        tenant_id, now = self.tenant_id, self._clock()

        def build() -> AuditReport:
            return build_report(self.store, tenant_id, start, end, now=now, include_records=include_records)

        return await self.store.call(build)

    async def log_pipeline_started(
        self, pipeline_id: str, run_id: str, actor_id: str, input_summary: Any = None
    ) -> AuditRecord:
        """A person started a pipeline."""
        return await self._log_pipeline(
            AuditEventType.PIPELINE_STARTED,
            pipeline_id,
            run_id,
            actor_type="user",
            actor_id=actor_id,
            action="start",
            new_value=None if input_summary is None else {"input_summary": input_summary},
        )

    async def log_pipeline_completed(self, pipeline_id: str, run_id: str, output_summary: Any = None) -> AuditRecord:
        """A pipeline came to its end."""
        return await self._log_pipeline(
            AuditEventType.PIPELINE_COMPLETED,
            pipeline_id,
            run_id,
            action="complete",
            new_value=None if output_summary is None else {"output_summary": output_summary},
        )

    async def log_pipeline_failed(self, pipeline_id: str, run_id: str, error: object) -> AuditRecord:
        """A pipeline failed."""
        return await self._log_pipeline(
            AuditEventType.PIPELINE_FAILED,
            pipeline_id,
            run_id,
            severity=AuditSeverity.ERROR,
            action="fail",
            success=False,
            error_message=str(error),
        )

    async def _log_pipeline(
        self, event_type: AuditEventType, pipeline: str, run: str, **fields: Unpack[AuditFields]
    ) -> AuditRecord:
        ids: AuditFields = {
            "pipeline_id": pipeline,
            "run_id": run,
            "resource_type": "pipeline",
            "resource_id": pipeline,
        }
        both: AuditFields = {**fields, **ids}
        return await self.log(event_type, **both)

    async def log_access_denied(self, actor_id: str, resource_type: str, resource_id: str, reason: str) -> AuditRecord:
        """Somebody asked for what they may not have."""
        return await self.log(
            AuditEventType.ACCESS_DENIED,
            severity=AuditSeverity.WARNING,
            actor_type="user",
            actor_id=actor_id,
            action="access_denied",
            resource_type=resource_type,
            resource_id=resource_id,
            success=False,
            error_message=reason,
        )

    async def log_approval(self, approved: bool, approver_id: str, request_id: str, reason: str = "") -> AuditRecord:
        """A person approved or rejected a request."""
        return await self.log(
            AuditEventType.APPROVAL_GRANTED if approved else AuditEventType.APPROVAL_REJECTED,
            severity=AuditSeverity.INFO if approved else AuditSeverity.WARNING,
            actor_type="user",
            actor_id=approver_id,
            action="approve" if approved else "reject",
            resource_type="approval_request",
            resource_id=request_id,
            success=approved,
            metadata={"reason": reason} if reason else None,
        )

    async def log_config_change(
        self,
        actor_id: str,
        resource_type: str,
        resource_id: str,
        old_value: Mapping[str, Any] | None,
        new_value: Mapping[str, Any] | None,
    ) -> AuditRecord:
        """A person changed a setting."""
        return await self.log(
            AuditEventType.CONFIG_CHANGED,
            actor_type="user",
            actor_id=actor_id,
            action="update",
            resource_type=resource_type,
            resource_id=resource_id,
            old_value=old_value,
            new_value=new_value,
        )


class TenantAwareAuditTrail(AuditTrail):
    """The audit trail of whichever tenant is current; without one it raises :class:`TenantContextError`."""

    def __init__(self, store: AuditStoreFace, *, clock: Clock = utc_now) -> None:
        super().__init__(store, clock=clock)

    @property
    def tenant_id(self) -> str:
        """The current tenant. Raises :class:`TenantContextError`."""
        return require_tenant_context()


def take_checkpoint(
    store: AuditStoreFace, tenant_id: str, key: SigningKey, now: datetime, since: AuditCheckpoint | None = None
) -> AuditCheckpoint:
    """See :meth:`AuditTrail.checkpoint`."""
    points = trusted_points(tenant_id, [] if since is None else [since], key.verify_key)
    head = store.ends(tenant_id).head
    start = 1 if since is None else max(since.sequence_number, 1)
    raise_on_faults(tenant_id, store.check(tenant_id, start, None, [*points, head]))
    return AuditCheckpoint(tenant_id, head.sequence_number, head.checksum, now).signed(key)


def _draft(event_type: AuditEventType, said: AuditFields) -> AuditDraft:
    given: dict[str, Any] = {**said, "event_type": AuditEventType(event_type)}
    given["metadata"] = given.get("metadata") or {}
    given["tags"] = given.get("tags") or ()
    draft = AuditDraft(**given)
    _check(draft)
    return draft


def _check(draft: AuditDraft) -> None:
    """Refuse what a store could not keep, in words that say which field it is."""
    for names, kinds, words in _KINDS:
        for name in names:
            value = getattr(draft, name)
            if not isinstance(value, kinds):
                raise AuditError(f"{name} of an audit record is {words}, not a {type(value).__name__}")
    if isinstance(draft.tags, str) or not all(isinstance(tag, str) for tag in draft.tags):
        raise AuditError("tags of an audit record are a list of texts")


_TEXTS = tuple(item.name for item in fields(AuditDraft) if item.type == "str")
_KINDS: tuple[tuple[tuple[str, ...], tuple[type, ...], str], ...] = (
    (_TEXTS, (str,), "text"),
    (("old_value", "new_value"), (Mapping, NoneType), "a mapping or None"),
    (("metadata",), (Mapping,), "a mapping"),
    (("success",), (bool,), "true or false"),
    (("timestamp",), (datetime, NoneType), "a datetime"),
)
