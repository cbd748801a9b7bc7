"""The audit trail: who did what, when, and with what outcome; append-only, one chain of digests per tenant."""

from llmteam.audit.models import AuditDraft, AuditEventType, AuditSeverity

__all__ = ["AuditDraft", "AuditEventType", "AuditSeverity"]
