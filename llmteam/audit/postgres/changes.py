"""What the trail says of tenants and their keys, in the transactions of the stores that keep them."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection

from llmteam.audit.models import AuditDraft, AuditEventType
from llmteam.audit.postgres.appending import append_with
from llmteam.ids import Clock, utc_now
from llmteam.keys.postgres import Record as KeyRecord
from llmteam.tenancy.models import TenantConfig
from llmteam.tenancy.postgres.tenants import Record as TenantRecord

_TENANT = {
    "create": AuditEventType.TENANT_CREATED,
    "update": AuditEventType.TENANT_UPDATED,
    "delete": AuditEventType.TENANT_DELETED,
}


def tenant_changes(actor_id: str = "", *, clock: Clock = utc_now) -> TenantRecord:
    """The ``record`` of a :class:`PostgresTenantStore`: what ``actor_id`` changes, as it was before and is after."""

    def record(
        connection: Connection,
        action: Literal["create", "update", "delete"],
        before: TenantConfig | None,
        after: TenantConfig | None,
    ) -> None:
        tenant = after or before
        assert tenant is not None
        draft = AuditDraft(
            event_type=_TENANT[action],
            actor_type="user" if actor_id else "system",
            actor_id=actor_id,
            action=action,
            resource_type="tenant",
            resource_id=tenant.tenant_id,
            old_value=None if before is None else before.to_dict(),
            new_value=None if after is None else after.to_dict(),
        )
        append_with(connection, tenant.tenant_id, [draft], now=clock())

    return record


def key_changes(actor_id: str = "", *, clock: Clock = utc_now) -> KeyRecord:
    """The ``record`` of a :class:`PostgresKeyStore`: ids of keys and master keys, never a key."""

    def record(connection: Connection, tenant_id: str, action: str, key_id: str, was: str, now: str) -> None:
        draft = AuditDraft(
            event_type=AuditEventType.CONFIG_CHANGED,
            actor_type="user" if actor_id else "system",
            actor_id=actor_id,
            action=action,
            resource_type="data_key",
            resource_id=key_id,
            old_value={"wrapped_by": was} if was else None,
            new_value={"wrapped_by": now} if now else None,
        )
        append_with(connection, tenant_id, [draft], now=clock())

    return record
