"""The audit trail: who did what, when, and with what outcome; append-only, one chain of digests per tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.audit.chain import ChainFault, ChainPoint, ChainVerification, FaultKind
from llmteam.audit.checkpoints import AuditCheckpoint
from llmteam.audit.exceptions import AuditError, AuditIntegrityError, AuditStorageError, InvalidAuditQueryError
from llmteam.audit.models import (
    AuditDraft,
    AuditEventType,
    AuditQuery,
    AuditRecord,
    AuditReport,
    AuditSeverity,
    generate_audit_id,
)
from llmteam.audit.stores import AuditStore, MemoryAuditStore
from llmteam.audit.trail import AuditTrail, TenantAwareAuditTrail

if TYPE_CHECKING:
    from llmteam.audit.postgres import PostgresAuditStore

__all__ = [
    "AuditCheckpoint",
    "AuditDraft",
    "AuditError",
    "AuditEventType",
    "AuditIntegrityError",
    "AuditQuery",
    "AuditRecord",
    "AuditReport",
    "AuditSeverity",
    "AuditStorageError",
    "AuditStore",
    "AuditTrail",
    "ChainFault",
    "ChainPoint",
    "ChainVerification",
    "FaultKind",
    "InvalidAuditQueryError",
    "MemoryAuditStore",
    "PostgresAuditStore",
    "TenantAwareAuditTrail",
    "generate_audit_id",
]


def __getattr__(name: str) -> Any:
    # On first use only: it brings SQLAlchemy.
    if name == "PostgresAuditStore":
        from llmteam.audit.postgres import PostgresAuditStore

        return PostgresAuditStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
