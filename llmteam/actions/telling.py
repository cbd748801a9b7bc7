"""What the audit trail and a run's events are told of a call: ids, hashes and outcomes, never a payload."""

from __future__ import annotations

import logging
from typing import Any, Protocol, Unpack

from llmteam.actions.models import ActionContext, ActionResult, ActionStatus, ActionType
from llmteam.audit.models import AuditEventType, AuditSeverity
from llmteam.audit.trail import AuditFields
from llmteam.events.emitter import EventEmitter
from llmteam.events.models import ErrorInfo, EventType
from llmteam.events.payloads import clean_text

_log = logging.getLogger(__name__)


class ActionTrail(Protocol):
    """What is told of calls, like an :class:`~llmteam.audit.AuditTrail`."""

    async def log(self, event_type: AuditEventType, **fields: Unpack[AuditFields]) -> object:
        """Write an event down before returning."""
        ...


class Teller:
    """Tells of one call. ``trail`` and ``events`` may be missing.

    ``key`` names a call that is kept and may be repeated by another process: its records are written once.
    """

    def __init__(
        self,
        trail: ActionTrail | None,
        events: EventEmitter | None,
        context: ActionContext,
        action_type: ActionType | None,
        payload_hash: str,
    ) -> None:
        self._trail = trail
        self._events = events if context.run_id and context.step_id else None
        self._context = context
        self._action_type = action_type
        self._hash = payload_hash
        self.key = ""
        self.attempt = 1

    async def invoked(self) -> None:
        """The first attempt is about to be made. Raises what the trail raises: then it is not made."""
        await self._audit(AuditEventType.ACTION_INVOKED, "invoke", {"payload_hash": self._hash})
        await self._event(EventType.ACTION_STARTED, {"payload_hash": self._hash})

    async def denied(self, reason: str) -> None:
        """The tenant may not do this. Raises what the trail raises."""
        await self._audit(AuditEventType.ACCESS_DENIED, "access_denied", {"payload_hash": self._hash}, reason=reason)

    async def ended(self, result: ActionResult, *, repeated: bool = False) -> None:
        """The call is over; ``repeated`` when it was so before, and may have been told or not.

        What cannot be written down is logged: the call was made, whatever the trail says.
        """
        metadata = {
            "status": result.status.value,
            "duration_ms": result.duration_ms,
            "response_code": result.response_code,
            "error_message": _text(result) or None,
            "error_type": result.error_type or None,
            "retry_count": result.retry_count,
            "payload_hash": self._hash,
        }
        try:
            await self._audit(AuditEventType(result.status.audited_as), "execute", metadata, result=result)
            if not repeated:
                await self._event_of(result)
        except Exception:  # noqa: BLE001  # whatever a trail or a store raises
            _log.exception(
                "the end of action %s of run %s was not written down", result.action_name, self._context.run_id
            )

    async def _audit(
        self,
        event_type: AuditEventType,
        action: str,
        metadata: dict[str, Any],
        *,
        result: ActionResult | None = None,
        reason: str = "",
    ) -> None:
        if self._trail is None:
            return
        context = self._context
        failed = bool(reason) or (result is not None and not result.success)
        ids = {"correlation_id": context.correlation_id, "run_id": context.run_id}
        await self._trail.log(
            event_type,
            severity=AuditSeverity.WARNING if failed else AuditSeverity.INFO,
            actor_type="agent" if context.step_id else "system",
            actor_id=context.agent_name,
            agent_name=context.agent_name,
            action=action,
            resource_type="external_action",
            resource_id=context.action_name,
            run_id=context.run_id,
            step_name=context.step_id,
            success=not failed,
            error_message=reason or ("" if result is None else _text(result)),
            metadata={**metadata, **ids},
            idempotency_key=self._once(event_type),
        )

    def _once(self, event_type: AuditEventType) -> str | None:
        """What a record of a kept call is known by: completed once, begun and failed once for each attempt."""
        if not self.key:
            return None
        attempt = "" if event_type is AuditEventType.ACTION_COMPLETED else f":{self.attempt}"
        return f"action:{self._context.action_name}:{self.key}{attempt}:{event_type.value}"

    async def _event_of(self, result: ActionResult) -> None:
        payload = {"status": result.status.value, "retry_count": result.retry_count}
        if result.response_code:
            payload["status_code"] = result.response_code
        if result.success:
            await self._event(EventType.ACTION_COMPLETED, payload, duration_ms=result.duration_ms)
            return
        error = ErrorInfo(error_type=result.error_type or result.status.value, error_message=_text(result))
        await self._event(EventType.ACTION_FAILED, payload, duration_ms=result.duration_ms, error=error)

    async def _event(self, event_type: EventType, payload: dict[str, Any], **others: Any) -> None:
        if self._events is None:
            return
        context = self._context
        named = {"action_id": context.action_name, "action_type": str(self._action_type or ""), **payload}
        await self._events.emit_event(
            event_type,
            context.run_id,
            step_id=context.step_id,
            step_type="action",
            visit=context.visit,
            payload=named,
            correlation_id=context.correlation_id or None,
            **others,
        )


def _text(result: ActionResult) -> str:
    if result.status is ActionStatus.CANCELLED and not result.error_message:
        return "cancelled"
    return clean_text(result.error_message)
