"""Emitting events from code that is not the engine: callers' own, tests, managers that know a run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from llmteam.errors import LLMTeamError
from llmteam.events.bound import BoundEmissions
from llmteam.events.models import ErrorInfo, EventDraft, EventScope, EventSeverity, EventType, WorktrailEvent, event_id
from llmteam.events.payloads import INLINE_BYTES, jsonable, omission, prepare
from llmteam.events.stores import EventStore, EventStoreFace
from llmteam.ids import Clock, utc_now
from llmteam.tenancy.context import get_current_tenant

if TYPE_CHECKING:
    from llmteam.events.stream import EventStream

#: What callers give as an error.
Failure = ErrorInfo | Mapping[str, Any] | BaseException | str

_log = logging.getLogger(__name__)


class EmitterError(LLMTeamError, RuntimeError):
    """The emitter was not built for the way in which it is used."""

    retryable = False


@runtime_checkable
class RunIdentity(Protocol):
    """What is used of a runtime context: whose run it is. Its ``on_event``, if any, is called with each event."""

    @property
    def tenant_id(self) -> str: ...
    @property
    def instance_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def segment_id(self) -> str: ...


_current_runtime: Callable[[], RunIdentity | None] = lambda: None  # noqa: E731  # one expression, replaced below


def use_current_runtime(source: Callable[[], RunIdentity | None]) -> None:
    """Name the function that answers the current runtime context; the package above this one calls it once."""
    global _current_runtime  # noqa: PLW0603  # the layer below may not import the one above
    _current_runtime = source


class EventEmitter(BoundEmissions):
    """Builds events, has them stored and tells ``runtime.on_event``, whose errors are logged and never raised.

    ``EventEmitter(store)`` serves many runs: every call names its run and is awaited. ``EventEmitter(runtime)`` serves
    the runtime's run: calls are plain and return the event at once, numbered by the emitter. With both, plain calls
    are stored too, except that a store which waits for a server refuses them inside a running event loop.

    Payloads are redacted and capped at ``inline_bytes`` of JSON per entry; values that JSON does not know become text.
    """

    def __init__(
        self,
        store: EventStore | RunIdentity | None = None,
        runtime: RunIdentity | None = None,
        stream: EventStream | None = None,
        *,
        clock: Clock = utc_now,
        inline_bytes: int = INLINE_BYTES,
    ) -> None:
        if store is None or hasattr(store, "append"):
            self.store = cast("EventStore | None", store)
        elif isinstance(store, RunIdentity) and runtime is None:
            self.store, runtime = None, store
        else:
            raise EmitterError(
                f"EventEmitter() takes an event store or a runtime context first, not a {type(store).__name__}"
            )
        if self.store is None and stream is not None:
            self.store = stream.store
        self.runtime = runtime
        self.stream = stream
        self._clock = clock
        self._inline_bytes = inline_bytes
        self._count = 0
        self._lock = threading.Lock()

    async def emit_event(
        self,
        event_type: EventType,
        run_id: str,
        *,
        step_id: str | None = None,
        step_type: str | None = None,
        visit: int | None = None,
        attempt: int | None = None,
        payload: Mapping[str, Any] | None = None,
        error: Failure | None = None,
        duration_ms: int | None = None,
        severity: EventSeverity | None = None,
        correlation_id: str | None = None,
        parent_event_id: str | None = None,
    ) -> WorktrailEvent:
        """Emit an event of any type; without ``severity`` it has its type's own.

        Raises what the store raises, and ``NotJSONError`` for a payload nested too deeply.
        """
        draft = EventDraft(
            event_type=event_type,
            step_id=step_id,
            step_type=step_type,
            visit=visit,
            attempt=attempt,
            severity=event_type.severity if severity is None else severity,
            payload=dict(payload or {}),
            error=None if error is None else ErrorInfo.of(error),
            duration_ms=duration_ms,
            correlation_id=correlation_id,
            parent_event_id=parent_event_id,
        )
        runtime = self.runtime or _current_runtime()
        event = self._build(draft, _scope(run_id, runtime))
        if self.store is None:
            event = self._numbered(event)
        else:
            kept = await self.store.append(event)
            event = kept if isinstance(kept, WorktrailEvent) else event
        self._tell(runtime, event)
        return event

    async def emit_step_started(
        self, run_id: str, step_id: str, input_data: Any, *, step_type: str | None = None
    ) -> WorktrailEvent:
        """A step began with this input."""
        return await self.emit_event(
            EventType.STEP_STARTED, run_id, step_id=step_id, step_type=step_type, payload={"input": input_data}
        )

    async def emit_step_completed(
        self, run_id: str, step_id: str, output_data: Any, duration_ms: int, *, step_type: str | None = None
    ) -> WorktrailEvent:
        """A step ended with this output."""
        return await self.emit_event(
            EventType.STEP_COMPLETED,
            run_id,
            step_id=step_id,
            step_type=step_type,
            payload={"output": output_data},
            duration_ms=duration_ms,
        )

    async def emit_step_failed(
        self, run_id: str, step_id: str, error_info: Failure, *, step_type: str | None = None
    ) -> WorktrailEvent:
        """A step failed for good."""
        return await self.emit_event(
            EventType.STEP_FAILED, run_id, step_id=step_id, step_type=step_type, error=error_info
        )

    async def emit_step_skipped(
        self, run_id: str, step_id: str, reason: str, *, step_type: str | None = None
    ) -> WorktrailEvent:
        """A step will not run, and why."""
        return await self.emit_event(
            EventType.STEP_SKIPPED, run_id, step_id=step_id, step_type=step_type, payload={"reason": reason}
        )

    async def emit_step_retrying(
        self,
        run_id: str,
        step_id: str,
        attempt: int,
        max_attempts: int,
        error_info: Failure,
        *,
        step_type: str | None = None,
    ) -> WorktrailEvent:
        """Attempt number ``attempt`` of a step failed and another follows."""
        return await self.emit_event(
            EventType.STEP_RETRYING,
            run_id,
            step_id=step_id,
            step_type=step_type,
            attempt=attempt,
            payload={"attempt": attempt, "max_attempts": max_attempts},
            error=error_info,
        )

    async def emit_segment_started(self, run_id: str, input_data: Any) -> WorktrailEvent:
        """A run began with this input."""
        return await self.emit_event(EventType.SEGMENT_STARTED, run_id, payload={"input": input_data})

    async def emit_segment_completed(self, run_id: str, output_data: Any, duration_ms: int) -> WorktrailEvent:
        """A run ended with this output."""
        return await self.emit_event(
            EventType.SEGMENT_COMPLETED, run_id, payload={"output": output_data}, duration_ms=duration_ms
        )

    async def emit_segment_failed(self, run_id: str, error_info: Failure) -> WorktrailEvent:
        """A run failed."""
        return await self.emit_event(EventType.SEGMENT_FAILED, run_id, error=error_info)

    async def emit_segment_cancelled(self, run_id: str, payload: Mapping[str, Any] | None = None) -> WorktrailEvent:
        """A run was cancelled."""
        return await self.emit_event(EventType.SEGMENT_CANCELLED, run_id, payload=payload)

    async def emit_segment_paused(self, run_id: str, payload: Mapping[str, Any] | None = None) -> WorktrailEvent:
        """A run was paused."""
        return await self.emit_event(EventType.SEGMENT_PAUSED, run_id, payload=payload)

    async def emit_segment_resumed(self, run_id: str, payload: Mapping[str, Any] | None = None) -> WorktrailEvent:
        """A paused run goes on."""
        return await self.emit_event(EventType.SEGMENT_RESUMED, run_id, payload=payload)

    def _emit_bound(self, draft: EventDraft) -> WorktrailEvent:
        runtime = self.runtime
        if runtime is None:
            raise EmitterError(
                "This emitter has no runtime, so it does not know the run: build it as EventEmitter(runtime), "
                "or await the emit_* methods, which take a run_id"
            )
        event = self._build(draft, _scope(runtime.run_id, runtime))
        if self.store is None:
            event = self._numbered(event)
        else:
            (event,) = self._core(self.store).add((event,))
        self._tell(runtime, event)
        return event

    def _core(self, store: EventStore) -> EventStoreFace:
        if not isinstance(store, EventStoreFace):
            raise EmitterError(f"A {type(store).__name__} can only be awaited: use await emitter.emit_event(…)")
        if store.blocks and _in_running_loop():
            raise EmitterError(
                f"A {type(store).__name__} waits for its server, which would stop this event loop: "
                "use await emitter.emit_event(…)"
            )
        return store

    def _build(self, draft: EventDraft, scope: EventScope) -> WorktrailEvent:
        event = draft.stamp(scope, self._clock())
        payload, _ = prepare(jsonable(draft.payload), limit=self._inline_bytes, replace=omission)
        return event.model_copy(update={"payload": payload})

    def _numbered(self, event: WorktrailEvent) -> WorktrailEvent:
        with self._lock:
            self._count += 1
            return event.model_copy(update={"event_id": event_id(event.run_id, self._count)})

    def _tell(self, runtime: RunIdentity | None, event: WorktrailEvent) -> None:
        if self.stream is not None:
            self.stream.wake(event)
        hook = getattr(runtime, "on_event", None)
        if hook is None:
            return
        try:
            hook(event)
        except Exception:  # noqa: BLE001  # a hook is the caller's code and must not end a run
            _log.exception("on_event failed for %s %s", event.event_type, event.event_id)


def _scope(run_id: str, runtime: RunIdentity | None) -> EventScope:
    """Whose event it is as far as is known here; a store that has the run's row knows better."""
    if runtime is None:
        return EventScope(tenant_id=get_current_tenant(), run_id=run_id)
    if runtime.run_id != run_id:
        return EventScope(tenant_id=runtime.tenant_id, run_id=run_id)
    return EventScope(
        tenant_id=runtime.tenant_id,
        run_id=run_id,
        instance_id=runtime.instance_id,
        segment_id=runtime.segment_id,
    )


def _in_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
