"""The plain calls of an emitter that is bound to one run: one method for each thing that happens in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from llmteam.events.models import ErrorInfo, EventDraft, EventSeverity, EventType, WorktrailEvent

_Error = ErrorInfo | Mapping[str, Any] | BaseException | str
_Payload = Mapping[str, Any] | None


class BoundEmissions(ABC):
    """Emits events of the emitter's own run. All methods return the event."""

    @abstractmethod
    def _emit_bound(self, draft: EventDraft) -> WorktrailEvent:
        """Build, store and announce the event; raises ``EmitterError`` when the run is not known."""

    def emit(
        self,
        event_type: EventType,
        *,
        step_id: str | None = None,
        step_type: str | None = None,
        payload: _Payload = None,
        error: _Error | None = None,
        duration_ms: int | None = None,
        severity: EventSeverity = EventSeverity.INFO,
        correlation_id: str | None = None,
        parent_event_id: str | None = None,
    ) -> WorktrailEvent:
        return self._emit_bound(
            EventDraft(
                event_type=event_type,
                step_id=step_id,
                step_type=step_type,
                severity=severity,
                payload=dict(payload or {}),
                error=None if error is None else ErrorInfo.of(error),
                duration_ms=duration_ms,
                correlation_id=correlation_id,
                parent_event_id=parent_event_id,
            )
        )

    def _run(
        self,
        event_type: EventType,
        payload: _Payload = None,
        *,
        error: _Error | None = None,
        duration_ms: int | None = None,
    ) -> WorktrailEvent:
        return self.emit(
            event_type, payload=payload, error=error, duration_ms=duration_ms, severity=event_type.severity
        )

    def _step(
        self,
        event_type: EventType,
        step_id: str,
        step_type: str | None,
        payload: _Payload = None,
        *,
        error: _Error | None = None,
        duration_ms: int | None = None,
    ) -> WorktrailEvent:
        return self.emit(
            event_type,
            step_id=step_id,
            step_type=step_type,
            payload=payload,
            error=error,
            duration_ms=duration_ms,
            severity=event_type.severity,
        )

    def segment_started(self, payload: _Payload = None) -> WorktrailEvent:
        return self._run(EventType.SEGMENT_STARTED, payload)

    def segment_completed(self, duration_ms: int, payload: _Payload = None) -> WorktrailEvent:
        return self._run(EventType.SEGMENT_COMPLETED, payload, duration_ms=duration_ms)

    def segment_failed(self, error: _Error) -> WorktrailEvent:
        return self._run(EventType.SEGMENT_FAILED, error=error)

    def segment_cancelled(self, payload: _Payload = None) -> WorktrailEvent:
        return self._run(EventType.SEGMENT_CANCELLED, payload)

    def segment_paused(self, payload: _Payload = None) -> WorktrailEvent:
        return self._run(EventType.SEGMENT_PAUSED, payload)

    def segment_resumed(self, payload: _Payload = None) -> WorktrailEvent:
        return self._run(EventType.SEGMENT_RESUMED, payload)

    def step_started(self, step_id: str, step_type: str, payload: _Payload = None) -> WorktrailEvent:
        return self._step(EventType.STEP_STARTED, step_id, step_type, payload)

    def step_completed(
        self, step_id: str, step_type: str, duration_ms: int, payload: _Payload = None
    ) -> WorktrailEvent:
        return self._step(EventType.STEP_COMPLETED, step_id, step_type, payload, duration_ms=duration_ms)

    def step_failed(self, step_id: str, step_type: str, error: _Error) -> WorktrailEvent:
        return self._step(EventType.STEP_FAILED, step_id, step_type, error=error)

    def step_skipped(self, step_id: str, step_type: str, reason: str) -> WorktrailEvent:
        return self._step(EventType.STEP_SKIPPED, step_id, step_type, {"reason": reason})

    def step_retrying(
        self, step_id: str, step_type: str, attempt: int, max_attempts: int, error: _Error
    ) -> WorktrailEvent:
        return self._step(
            EventType.STEP_RETRYING,
            step_id,
            step_type,
            {"attempt": attempt, "max_attempts": max_attempts},
            error=error,
        )

    def human_task_created(
        self, step_id: str, task_id: str, task_type: str, assignee: str | None = None
    ) -> WorktrailEvent:
        payload = {"task_id": task_id, "task_type": task_type, "assignee": assignee}
        return self._step(EventType.HUMAN_TASK_CREATED, step_id, "human_task", payload)

    def human_task_assigned(self, step_id: str, task_id: str, assignee: str) -> WorktrailEvent:
        payload = {"task_id": task_id, "assignee": assignee}
        return self._step(EventType.HUMAN_TASK_ASSIGNED, step_id, "human_task", payload)

    def human_task_escalated(self, step_id: str, task_id: str, level: int, assignee: str) -> WorktrailEvent:
        payload = {"task_id": task_id, "level": level, "assignee": assignee}
        return self._step(EventType.HUMAN_TASK_ESCALATED, step_id, "human_task", payload)

    def human_task_completed(self, step_id: str, task_id: str, completed_by: str, duration_ms: int) -> WorktrailEvent:
        payload = {"task_id": task_id, "completed_by": completed_by}
        return self._step(EventType.HUMAN_TASK_COMPLETED, step_id, "human_task", payload, duration_ms=duration_ms)

    def action_started(self, step_id: str, action_type: str, endpoint: str | None = None) -> WorktrailEvent:
        payload = _given(action_type=action_type, endpoint=endpoint)
        return self._step(EventType.ACTION_STARTED, step_id, "action", payload)

    def action_completed(
        self, step_id: str, action_type: str, duration_ms: int, status_code: int | None = None
    ) -> WorktrailEvent:
        payload = _given(action_type=action_type, status_code=status_code)
        return self._step(EventType.ACTION_COMPLETED, step_id, "action", payload, duration_ms=duration_ms)

    def action_failed(self, step_id: str, action_type: str, error: _Error) -> WorktrailEvent:
        return self._step(EventType.ACTION_FAILED, step_id, "action", {"action_type": action_type}, error=error)

    def data_produced(
        self, step_id: str, output_port: str, data_type: str, size_bytes: int | None = None
    ) -> WorktrailEvent:
        payload = _given(output_port=output_port, data_type=data_type, size_bytes=size_bytes)
        return self._step(EventType.DATA_PRODUCED, step_id, None, payload)

    def data_consumed(self, step_id: str, input_port: str, from_step: str, from_port: str) -> WorktrailEvent:
        payload = {"input_port": input_port, "from_step": from_step, "from_port": from_port}
        return self._step(EventType.DATA_CONSUMED, step_id, None, payload)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
