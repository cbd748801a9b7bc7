"""Audit records as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class AuditEventType(StrEnum):
    """What was done. The value is what is stored."""

    PIPELINE_CREATED = "pipeline.created"
    PIPELINE_STARTED = "pipeline.started"
    PIPELINE_COMPLETED = "pipeline.completed"
    PIPELINE_FAILED = "pipeline.failed"
    PIPELINE_PAUSED = "pipeline.paused"
    PIPELINE_RESUMED = "pipeline.resumed"
    PIPELINE_CANCELLED = "pipeline.cancelled"
    AGENT_STARTED = "agent.started"
    AGENT_COMPLETED = "agent.completed"
    AGENT_FAILED = "agent.failed"
    AGENT_RETRIED = "agent.retried"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_GRANTED = "approval.granted"
    APPROVAL_REJECTED = "approval.rejected"
    APPROVAL_TIMEOUT = "approval.timeout"
    APPROVAL_ESCALATED = "approval.escalated"
    ACTION_INVOKED = "action.invoked"
    ACTION_COMPLETED = "action.completed"
    ACTION_FAILED = "action.failed"
    ACCESS_GRANTED = "security.access_granted"
    ACCESS_DENIED = "security.access_denied"
    CONTEXT_ACCESSED = "security.context_accessed"
    SEALED_DATA_ACCESSED = "security.sealed_data_accessed"
    AUTHENTICATION_SUCCESS = "security.auth_success"
    AUTHENTICATION_FAILURE = "security.auth_failure"
    CONFIG_CHANGED = "config.changed"
    POLICY_CHANGED = "config.policy_changed"
    TENANT_CREATED = "config.tenant_created"
    TENANT_UPDATED = "config.tenant_updated"
    TENANT_DELETED = "config.tenant_deleted"
    DATA_CREATED = "data.created"
    DATA_UPDATED = "data.updated"
    DATA_DELETED = "data.deleted"
    DATA_EXPORTED = "data.exported"
    DATA_IMPORTED = "data.imported"


class AuditSeverity(StrEnum):
    """How serious a record is, from DEBUG (least) to CRITICAL."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDraft:
    """What is to be recorded; the store adds id, number, time and its link in the chain.

    ``idempotency_key`` makes a draft that is appended twice one record.
    """

    event_type: AuditEventType
    severity: AuditSeverity = AuditSeverity.INFO
    pipeline_id: str = ""
    run_id: str = ""
    agent_name: str = ""
    step_name: str = ""
    actor_type: str = "system"
    actor_id: str = ""
    actor_ip: str = ""
    actor_user_agent: str = ""
    action: str = ""
    resource_type: str = ""
    resource_id: str = ""
    old_value: Mapping[str, Any] | None = None
    new_value: Mapping[str, Any] | None = None
    success: bool = True
    error_message: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()
    idempotency_key: str | None = None
