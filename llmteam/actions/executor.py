"""Taking actions: may the tenant, does the payload fit, attempts and the waiting between them, what is written down."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

from llmteam import codec
from llmteam.actions.calls import PreparedCall, prepared
from llmteam.actions.exceptions import ActionNotFoundError
from llmteam.actions.gate import TenantRecords, check_allowed
from llmteam.actions.limiting import Limiter, limited
from llmteam.actions.models import ActionContext, ActionResult, ActionStatus
from llmteam.actions.policy import delay_before, may_repeat
from llmteam.actions.registry import ActionRegistry
from llmteam.actions.schemas import misfit
from llmteam.actions.stores import AttemptStore, Begun, is_json
from llmteam.actions.telling import ActionTrail, Teller
from llmteam.errors import LLMTeamError, NotJSONError
from llmteam.events.emitter import EventEmitter
from llmteam.ids import Clock, InvalidIdentifierError, utc_now
from llmteam.runtime.context import current_runtime
from llmteam.tenancy import TenantContext, TenantContextError, get_current_tenant

_log = logging.getLogger(__name__)

#: Calls of one batch that are made at once.
BATCH_AT_ONCE = 10


class ActionExecutor:
    """Takes the actions of a registry. What goes wrong with an action is in its result; only cancelling raises.

    Args:
        registry: the actions.
        rate_limiter: asked for each attempt, by the action's id; the runtime's own when it is not given.
        audit_trail: told before the first attempt and after the last; the runtime's own when it is not given.
        events: told of calls whose run and step are known.
        attempts: where attempts of such calls are written down before they are made: a call that is repeated under its
            key gives the result that is there.
        tenants: who knows what tenants may do.
        longest_wait: a delay before a retry that is longer is not waited for: the result says when (``retry_after``).
        at_once: calls of one batch that are made at once.
    """

    def __init__(
        self,
        registry: ActionRegistry,
        rate_limiter: Limiter | None = None,
        audit_trail: ActionTrail | None = None,
        *,
        events: EventEmitter | None = None,
        attempts: AttemptStore | None = None,
        tenants: TenantRecords | None = None,
        longest_wait: timedelta | None = None,
        at_once: int = BATCH_AT_ONCE,
        clock: Clock = utc_now,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.registry = registry
        self.rate_limiter = rate_limiter
        self.audit_trail = audit_trail
        self._events = events
        self._attempts = attempts
        self._tenants = tenants
        self._longest_wait = longest_wait
        self._at_once = at_once
        self._clock = clock
        self._chance = chance
        self._sleep = sleep

    async def execute(
        self,
        action_id: str,
        payload: Mapping[str, Any] | ActionContext | None = None,
        *,
        context: ActionContext | None = None,
        run_id: str | None = None,
        agent_name: str | None = None,
        tenant_id: str | None = None,
        correlation_id: str | None = None,
        timeout: timedelta | float | None = None,  # noqa: ASYNC109  # the contract's name
        idempotency_key: str | None = None,
        retries: int | None = None,
        under_limits: bool = True,
    ) -> ActionResult:
        """Take an action and say what came of it; ``timeout`` (for each attempt) and ``retries`` replace its own.

        ``under_limits`` is False where the caller has found room for the call already. What is not given is that of
        the running code: its tenant, run and step. Raises ``TypeError`` for a payload that is no mapping.
        """
        said = {"run_id": run_id, "agent_name": agent_name, "tenant_id": tenant_id, "correlation_id": correlation_id}
        given = payload if isinstance(payload, ActionContext) else context
        values = None if isinstance(payload, ActionContext) else payload
        call = prepared(action_id, given, values, said, timeout, idempotency_key, now=self._clock(), owner=self._owner)
        entry = self.registry.find(action_id)
        if entry is not None:
            call.config, call.handler = entry
        if retries is not None:
            call.retries = retries
        call.under_limits = under_limits
        current, tenant = get_current_tenant(), call.context.tenant_id
        try:
            if current and current != tenant:
                raise TenantContextError(f"Tenant '{current}' is current; an action of another one is not taken here")
            whose = TenantContext(tenant)
        except (TenantContextError, InvalidIdentifierError) as exc:
            # Nothing is written down: whose trail it would be is what the call gets wrong.
            return self._stamped(call, ActionResult.of_exception(action_id, exc), 0)
        with whose:
            return await self._execute(call)

    def _owner(self) -> str:
        """Whose actions these are where nobody says so: the tenant that the trail was made for."""
        try:
            return str(getattr(self.audit_trail, "tenant_id", ""))
        except TenantContextError:
            return ""

    async def execute_batch(self, contexts: Sequence[ActionContext]) -> list[ActionResult]:
        """Take several actions, at most ``at_once`` at the same time; results in the order of ``contexts``."""
        room = asyncio.Semaphore(self._at_once)

        async def one(context: ActionContext) -> ActionResult:
            async with room:
                return await self.execute(context.action_name, context)

        return list(await asyncio.gather(*map(one, contexts)))

    async def _execute(self, call: PreparedCall) -> ActionResult:
        name, teller = call.context.action_name, self._teller(call)
        try:
            begun = await self._admitted(call, teller)
        except Exception as exc:  # noqa: BLE001  # whatever a store or a trail raises: nothing was done yet
            begun = ActionResult.of_exception(name, exc)
        if isinstance(begun, Begun) and begun.result is not None:
            await teller.ended(begun.result, repeated=True)
            return begun.result
        try:
            result = begun if isinstance(begun, ActionResult) else await self._repeatedly(call, begun)
        except asyncio.CancelledError:
            gone = ActionResult(name, ActionStatus.CANCELLED, error_type="CancelledError")
            await asyncio.shield(teller.ended(self._stamped(call, gone, 0)))
            raise
        except Exception as exc:  # noqa: BLE001  # the store's, between two attempts
            result = ActionResult.of_exception(name, exc)
        await teller.ended(self._stamped(call, result, result.retry_count))
        return result

    async def _admitted(self, call: PreparedCall, teller: Teller) -> ActionResult | Begun:
        """The first attempt, told of and ready to be made; else why the action is not taken."""
        refused = await self._refused(call, teller)
        if refused is not None:
            return refused
        begun = await self._begin(call)
        if isinstance(begun, ActionResult) or begun.result is not None:
            return begun
        teller.attempt = begun.attempt
        try:
            await teller.invoked()
        except BaseException as exc:
            await asyncio.shield(self._finish(call, begun, ActionResult.of_exception(call.context.action_name, exc)))
            raise
        return begun

    def _teller(self, call: PreparedCall) -> Teller:
        runtime = current_runtime.get()
        trail: Any = self.audit_trail
        if trail is None and runtime is not None and hasattr(runtime.audit_trail, "log"):
            trail = runtime.audit_trail
        kind = None if call.config is None else call.config.action_type
        teller = Teller(trail, self._events, call.context, kind, call.payload_hash)
        if self._attempts is not None and call.record is not None:
            teller.key = call.record.idempotency_key
        return teller

    async def _refused(self, call: PreparedCall, teller: Teller) -> ActionResult | None:
        """Why the action is not taken; None when it is."""
        context = call.context
        name = context.action_name
        if call.config is None or call.handler is None:
            missing = ActionNotFoundError(name, self.registry.list_actions())
            return ActionResult.failure(name, "ActionNotFound", str(missing), retryable=False)
        try:
            await check_allowed(self._tenants, context.tenant_id, name)
        except LLMTeamError as exc:
            if exc.retryable is False:
                await teller.denied(str(exc))
            return ActionResult.of_exception(name, exc)
        try:
            codec.check(context.input_data, "$.payload")
        except NotJSONError as exc:
            return ActionResult.failure(name, "RequestValidationError", str(exc), retryable=False)
        fault = misfit(call.config.request_schema, context.input_data)
        if not fault and not await call.handler.validate_request(context):
            fault = "the handler refuses it"
        if fault:
            return ActionResult.failure(name, "RequestValidationError", f"payload: {fault}", retryable=False)
        return None

    async def _begin(self, call: PreparedCall) -> Begun | ActionResult:
        """Write the next attempt down; a result when its key was used for another call."""
        if self._attempts is None or call.record is None:
            return Begun(1)
        begun = await asyncio.to_thread(self._attempts.begin, call.record, self._clock())
        if begun.attempt == 0:
            return ActionResult.failure(
                call.context.action_name,
                "IdempotencyKeyReused",
                "this idempotency key was used with another payload: give each call a key of its own",
                retryable=False,
            )
        return begun

    async def _repeatedly(self, call: PreparedCall, begun: Begun) -> ActionResult:
        """Attempts until one is completed, none may help, or all are used up."""
        config, retry = call.config, 0
        assert config is not None
        while True:
            result = await self._once(call, begun, retry)
            if retry >= min(call.retries, config.retry_count) or not may_repeat(config, result):
                return result
            wait = delay_before(config, retry + 1, self._chance(), result.retry_after)
            if self._longest_wait is not None and wait > self._longest_wait:
                result.retryable, result.retry_after = True, wait.total_seconds()
                return result
            await self._sleep(wait.total_seconds())
            retry += 1
            another = await self._begin(call)
            if isinstance(another, ActionResult) or another.result is not None:
                return another if isinstance(another, ActionResult) else cast("ActionResult", another.result)
            begun = another

    async def _once(self, call: PreparedCall, begun: Begun, retry: int) -> ActionResult:
        """One attempt behind the limiter, with its outcome written down."""
        assert call.config is not None
        call.context = replace(call.context, attempt=begun.attempt)
        try:
            result = await limited(self._limiter(call), call.config, lambda: self._attempt(call))
        except asyncio.CancelledError:
            gone = ActionResult(call.context.action_name, ActionStatus.CANCELLED, error_type="CancelledError")
            await asyncio.shield(self._finish(call, begun, gone))
            raise
        except Exception as exc:  # noqa: BLE001  # the limiter's own
            result = ActionResult.of_exception(call.context.action_name, exc)
        await asyncio.shield(self._finish(call, begun, self._stamped(call, result, retry)))
        return result

    def _limiter(self, call: PreparedCall) -> Any:
        if not call.under_limits:
            return None
        runtime = current_runtime.get()
        return self.rate_limiter or (None if runtime is None else runtime.rate_limiter)

    async def _attempt(self, call: PreparedCall) -> ActionResult:
        handler, context, config = call.handler, call.context, call.config
        assert handler is not None
        assert config is not None
        seconds = (context.timeout or config.timeout).total_seconds()
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                result = await handler.execute(context)
                if call.step is not None:
                    # It would stand in rows and outputs. Raises SecretShownError.
                    call.step.check_shows_no_secret("answer of an action", _written(result.response_data))
                if result.success:
                    result = await self._checked(call, result)
        except TimeoutError as exc:
            if not limit.expired():
                return ActionResult.of_exception(context.action_name, exc)
            return ActionResult(
                context.action_name,
                ActionStatus.TIMEOUT,
                error_type="TimeoutError",
                error_message=f"no answer within {seconds:g} s",
            )
        except Exception as exc:  # noqa: BLE001  # handlers are foreign code
            return ActionResult.of_exception(context.action_name, exc)
        return result

    async def _checked(self, call: PreparedCall, result: ActionResult) -> ActionResult:
        """A completed result, or that its answer does not fit."""
        assert call.handler is not None
        assert call.config is not None
        fault = ""
        if self._attempts is not None and call.record is not None:
            try:
                codec.check(result.response_data, "$.response")
            except NotJSONError as exc:
                fault = str(exc)
        fault = fault or misfit(call.config.response_schema, result.response_data)
        if not fault and not await call.handler.validate_response(result):
            fault = "the handler refuses it"
        if not fault:
            return result
        return ActionResult.failure(
            result.action_name,
            "ResponseValidationError",
            f"answer: {fault}",
            response_code=result.response_code,
            response_data=result.response_data,
            retryable=False,
        )

    async def _finish(self, call: PreparedCall, begun: Begun, result: ActionResult) -> None:
        """Write down what came of an attempt. It was made, whatever the store says: a fault of it is logged."""
        if self._attempts is None or call.record is None:
            return
        kept = result if is_json(result.response_data) else replace(result, response_data=None)
        try:
            await asyncio.to_thread(self._attempts.finish, call.record, begun.attempt, kept, self._clock())
        except LLMTeamError as exc:
            _log.warning(
                "attempt %d at action %s of run %s was made, but its outcome was not written down: %s",
                *(begun.attempt, result.action_name, call.context.run_id, exc),
            )

    def _stamped(self, call: PreparedCall, result: ActionResult, retries: int) -> ActionResult:
        result.retry_count = retries
        if call.step is not None:
            result.error_message = call.step.redact(result.error_message)
        result.started_at = call.context.timestamp
        result.completed_at = self._clock()
        result.duration_ms = round((time.monotonic() - call.began) * 1000)
        return result


def _written(data: Any) -> str:
    return codec.dumps(data) if is_json(data) else repr(data)
