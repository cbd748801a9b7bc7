"""What a run and a step may use: resources by name, secrets, step-local state, and which runtime is active."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Any, Literal

from llmteam import codec, masking
from llmteam.audit.models import AuditEventType
from llmteam.context.auditing import AccessTrail, use_current_trail
from llmteam.context.auditing import tell as tell_access
from llmteam.context.policy import ContextAccessPolicy
from llmteam.context.propagation import ContextPropagationConfig
from llmteam.context.runs import Contexts, OpenContext
from llmteam.events.emitter import use_current_runtime
from llmteam.ids import utc_now
from llmteam.masking import SecretValue
from llmteam.runtime.exceptions import RuntimeContextError, SecretAccessDeniedError, SecretShownError
from llmteam.runtime.providers.builtin import builtin_models
from llmteam.runtime.resources import (
    Client,
    ClientRegistry,
    LLMProvider,
    LLMRegistry,
    NamespacedStore,
    SecretsProvider,
    Store,
    StoreRegistry,
)
from llmteam.runtime.secrets import SecretReader
from llmteam.tenancy import TenantContext, TenantContextError, get_current_tenant

_log = logging.getLogger(__name__)

#: Told of an event; a plain function. Its errors are logged and change nothing.
Hook = Callable[[Any], object]
HookName = Literal["on_step_start", "on_step_complete", "on_step_error", "on_event"]


@dataclass
class RuntimeContext:
    """The resources of one run of one workflow instance of one tenant.

    It holds live objects and does not travel: :meth:`to_ref` is what another process rebuilds it from.
    """

    tenant_id: str
    instance_id: str
    run_id: str
    segment_id: str
    stores: StoreRegistry = field(default_factory=StoreRegistry, repr=False)
    clients: ClientRegistry = field(default_factory=ClientRegistry, repr=False)
    llms: LLMRegistry = field(default_factory=LLMRegistry, repr=False)
    secrets: SecretsProvider | None = field(default=None, repr=False)
    rate_limiter: object | None = field(default=None, repr=False)
    audit_trail: AccessTrail | None = field(default=None, repr=False)
    on_step_start: Hook | None = field(default=None, repr=False)
    on_step_complete: Hook | None = field(default=None, repr=False)
    on_step_error: Hook | None = field(default=None, repr=False)
    on_event: Hook | None = field(default=None, repr=False)
    created_at: datetime = field(default_factory=utc_now)
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    actions: object | None = field(default=None, repr=False)
    contexts: Contexts | None = field(default=None, repr=False)
    secret_reader: SecretReader = field(default_factory=SecretReader, repr=False, compare=False)

    def resolve_store(self, ref: str) -> Store:
        """The store registered as ``ref``, behind this instance's namespace when it was registered so.

        Raises :class:`ResourceNotFoundError` or :class:`ResourceAccessDeniedError`, as the next two.
        """
        store, namespaced = self.stores.resolve(ref, self.tenant_id)
        return NamespacedStore(store, self.tenant_id, self.instance_id) if namespaced else store

    def resolve_client(self, ref: str) -> Client:
        return self.clients.resolve(ref, self.tenant_id)[0]

    def resolve_llm(self, ref: str) -> LLMProvider:
        """The model registered as ``ref``, else the built-in one: ``offline``, and what the settings name."""
        if not self.llms.has(ref) and (known := builtin_models().get(ref)) is not None:
            return known
        return self.llms.resolve(ref, self.tenant_id)[0]

    async def resolve_secret(self, ref: str) -> str:
        """The secret's value without blocking the loop. Audited; raises what :meth:`SecretReader.read` raises."""
        try:
            value = await self.secret_reader.read_async(self.secrets, ref, tenant_id=self.tenant_id)
        except SecretAccessDeniedError as exc:
            await asyncio.to_thread(self._tell_secret, ref, "", str(exc))
            raise
        await asyncio.to_thread(self._tell_secret, ref, "")
        return value

    def _tell_secret(self, ref: str, step_id: str, reason: str = "") -> None:
        """Write down that a secret is read, or with a ``reason`` refused; its id only."""
        if self.audit_trail is not None:
            tell_access(
                self.audit_trail,
                AuditEventType.ACCESS_DENIED if reason else AuditEventType.ACCESS_GRANTED,
                viewer_id=step_id or self.run_id,
                viewer_role="step" if step_id else "run",
                resource_type="secret",
                resource_id=ref,
                run_id=self.run_id,
                reason=reason,
            )

    def child_context(self, step_id: str, **execution: Any) -> StepContext:
        """The context of one step; ``execution`` are the keyword fields of :class:`StepContext`."""
        return StepContext(self, step_id, **execution)

    def copy(self, **overrides: Any) -> RuntimeContext:
        """The same context with some fields replaced: registries shared, ``data`` copied, age kept.

        An unknown field is a ``TypeError``.
        """
        return replace(self, **{"data": dict(self.data), **overrides})

    def notify(self, hook: HookName, event: Any) -> None:
        """Tell a hook, when there is one; its errors are logged and go no further."""
        function: Hook | None = getattr(self, hook)
        if function is None:
            return
        try:
            function(event)
        except Exception as exc:  # noqa: BLE001 a hook is foreign code and never ends a run
            _log.error("%s of run %s failed: %s", hook, self.run_id, type(exc).__name__, exc_info=exc)

    def to_ref(self) -> dict[str, Any]:
        """What :meth:`RuntimeContextManager.from_ref` rebuilds this context from, in any process.

        Raises :class:`NotJSONError` when ``data`` holds what JSON cannot carry, or a secret value.
        """
        ref: dict[str, Any] = _as_json({name: getattr(self, name) for name in REF_FIELDS}, "runtime")
        return {**ref, "created_at": self.created_at.isoformat()}


#: What a ref carries beside ``created_at``.
REF_FIELDS = ("tenant_id", "instance_id", "run_id", "segment_id", "data")


@dataclass
class StepContext:
    """What a handler is given: its runtime, who it is, how long it may take, and state of its own.

    ``inputs`` and ``outputs`` are the step's port names. ``idempotency_key`` is the same for every attempt. Work that
    sees ``cancelled`` set, or ``deadline`` passed, should stop soon: its result will not count.

    ``local_state`` is kept per run, step and visit and saved with the step, so it outlives retries, workers and
    pauses; ``dirty`` says that it changed here.
    """

    runtime: RuntimeContext
    step_id: str
    _: KW_ONLY
    visit: int = 1
    attempt: int = 1
    idempotency_key: str = ""
    deadline: datetime | None = None
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    local_state: dict[str, Any] = field(default_factory=dict, repr=False)
    dirty: bool = field(default=False, init=False, repr=False, compare=False)
    wants_snapshot: bool = field(default=False, init=False, repr=False, compare=False)
    _annotations: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _given_out: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    _audited: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def tenant_id(self) -> str:
        return self.runtime.tenant_id

    @property
    def instance_id(self) -> str:
        return self.runtime.instance_id

    @property
    def run_id(self) -> str:
        return self.runtime.run_id

    @property
    def segment_id(self) -> str:
        return self.runtime.segment_id

    def get_store(self, ref: str) -> Store:
        """As :meth:`RuntimeContext.resolve_store`."""
        return self.runtime.resolve_store(ref)

    def get_client(self, ref: str) -> Client:
        """As :meth:`RuntimeContext.resolve_client`."""
        return self.runtime.resolve_client(ref)

    def get_llm(self, ref: str) -> LLMProvider:
        """As :meth:`RuntimeContext.resolve_llm`."""
        return self.runtime.resolve_llm(ref)

    def get_secret(self, ref: str) -> SecretValue:
        """The secret as text that shows itself only when it is used; awaiting the value is allowed and gives it.

        Blocks while the provider answers, at most once per cache period. The first read of an attempt is audited, as is
        a refusal, before the value is given. Raises what :meth:`SecretReader.read` raises.
        """
        runtime = self.runtime
        try:
            value = runtime.secret_reader.read(runtime.secrets, ref, tenant_id=self.tenant_id, step_id=self.step_id)
        except SecretAccessDeniedError as exc:
            runtime._tell_secret(ref, self.step_id, str(exc))
            raise
        if ref not in self._audited:
            runtime._tell_secret(ref, self.step_id)
            self._audited.add(ref)
        self._given_out.add(str(value))
        return value

    def open_context(self, *, name: str = "", policy: ContextAccessPolicy | None = None) -> OpenContext:
        """This step's own context of this run, for a ``with`` or ``async with`` block that writes it when it ends well.

        Only this step can read what it seals there: in later visits and attempts, on whatever worker. ``name`` and
        ``policy`` count when it is opened first. Raises :class:`RuntimeContextError` where there is no run.
        """
        runtime = self.runtime
        if runtime.contexts is None:
            raise RuntimeContextError("There is no run here that keeps contexts: run the step in a segment")
        config = ContextPropagationConfig()
        return runtime.contexts.open(
            runtime.tenant_id,
            runtime.run_id,
            self.step_id,
            name=name,
            policy=policy,
            audit_trail=runtime.audit_trail,
            shared={key: runtime.data[key] for key in config.propagate_down if key in runtime.data},
            on_texts=self._given_out.update,
            hidden=self._given_out,
        )

    def redact(self, text: str) -> str:
        """``text`` with every secret that this step was given replaced by ``***``; for error texts and logs."""
        return masking.redact(text, self._given_out)

    def check_shows_no_secret(self, what: str, text: str) -> None:
        """Raise :class:`SecretShownError` when ``text``, which others will see, holds a secret that the step was given.

        Secrets of fewer than :data:`llmteam.masking.MIN_REFUSED` characters are not looked for.
        """
        if masking.shows(text, self._given_out):
            raise SecretShownError(self.step_id, what)

    def get_state(self, key: str, default: Any = None) -> Any:
        """A copy of what :meth:`set_state` kept."""
        return copy.deepcopy(self.local_state[key]) if key in self.local_state else default

    def set_state(self, key: str, value: Any) -> None:
        """Keep a JSON value for later attempts of this visit.

        Raises :class:`NotJSONError`, and :class:`SecretShownError` for a secret that this step was given.
        """
        self.local_state = {**self.local_state, key: self._kept_json(value, f"state.{key}")}
        self.dirty = True

    def clear_state(self) -> None:
        """Forget everything that :meth:`set_state` kept."""
        self.local_state = {}
        self.dirty = True

    def checkpoint(self) -> None:
        """Have a snapshot of the run kept with what this attempt gives, in the same transaction; if it gives anything.

        Where the tenant's licence has no room for one more, none is kept, and the step is over all the same.
        """
        self.wants_snapshot = True

    def annotate(self, name: str, value: Any) -> None:
        """Put a JSON value into the payload of the event that ends this attempt. Raises as :meth:`set_state`."""
        self._annotations[name] = self._kept_json(value, f"annotation.{name}")

    def _kept_json(self, value: Any, path: str) -> Any:
        text = codec.dumps(value, path=path)
        self.check_shows_no_secret(path, text)
        return codec.loads(text)

    @property
    def annotations(self) -> dict[str, Any]:
        return dict(self._annotations)


def _as_json(value: Any, path: str) -> Any:
    return codec.loads(codec.dumps(value, path=path))


#: The runtime that the running code works in; None when there is none.
current_runtime: ContextVar[RuntimeContext | None] = ContextVar("current_runtime", default=None)
#: The step that the running code works for; None outside of handlers.
current_step: ContextVar[StepContext | None] = ContextVar("current_step", default=None)
use_current_runtime(current_runtime.get)
use_current_trail(lambda: None if (runtime := current_runtime.get()) is None else runtime.audit_trail)

#: Activations entered by the running code and not yet left, innermost last, each with what it replaced.
_entered: ContextVar[tuple[tuple[Activation, TenantContext, RuntimeContext | None], ...]] = ContextVar(
    "entered_runtimes", default=()
)


def get_current_runtime() -> RuntimeContext:
    """The active runtime. Raises :class:`RuntimeContextError` when there is none."""
    runtime = current_runtime.get()
    if runtime is None:
        raise RuntimeContextError("No runtime is active here: enter one with `with manager.activate(runtime)`")
    return runtime


def get_current_step() -> StepContext | None:
    """The step that the running code works for, if it is one of the active runtime."""
    step = current_step.get()
    return step if step is not None and step.runtime is current_runtime.get() else None


@contextmanager
def working_for(step: StepContext) -> Iterator[None]:
    """Make ``step`` the one that the code of the block works for."""
    token = current_step.set(step)
    try:
        yield
    finally:
        current_step.reset(token)


class Activation:
    """Makes a runtime the active one, and its tenant the current one, for a ``with`` or ``async with`` block.

    May be entered again, also inside itself.
    """

    def __init__(self, runtime: RuntimeContext) -> None:
        self._runtime = runtime

    def __enter__(self) -> RuntimeContext:
        current = get_current_tenant()
        if current and current != self._runtime.tenant_id:
            raise TenantContextError(
                f"A runtime of tenant '{self._runtime.tenant_id}' cannot be entered while tenant '{current}' is "
                "current: leave that tenant's context first"
            )
        tenant = TenantContext(self._runtime.tenant_id).__enter__()
        _entered.set((*_entered.get(), (self, tenant, current_runtime.get())))
        current_runtime.set(self._runtime)
        return self._runtime

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = _entered.get()
        if not entered or entered[-1][0] is not self:
            raise RuntimeContextError(
                f"The runtime of run '{self._runtime.run_id}' is left where it is not the innermost one: leave "
                "runtimes in the reverse order of entering them, and in the task that entered them"
            )
        *outer, (_, tenant, previous) = entered
        tenant.__exit__(None, None, None)
        _entered.set(tuple(outer))
        current_runtime.set(previous)

    async def __aenter__(self) -> RuntimeContext:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, exc, trace)
