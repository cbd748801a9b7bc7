"""The audit trail: who did what, when, and with what outcome; append-only, one chain of digests per tenant."""

from llmteam.audit.chain import ChainFault, ChainPoint, ChainVerification, FaultKind
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

__all__ = [
    "AuditDraft",
    "AuditError",
    "AuditEventType",
    "AuditIntegrityError",
    "AuditQuery",
    "AuditRecord",
    "AuditReport",
    "AuditSeverity",
    "AuditStorageError",
    "ChainFault",
    "ChainPoint",
    "ChainVerification",
    "FaultKind",
    "InvalidAuditQueryError",
    "generate_audit_id",
]
