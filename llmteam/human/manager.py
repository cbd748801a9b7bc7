"""Asking people, answering, and waiting for answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from llmteam.audit.models import AuditDraft
from llmteam.human import rules
from llmteam.human.checks import problems_of
from llmteam.human.deadlines import catch_up
from llmteam.human.exceptions import InvalidRequestError, InvalidResponseError
from llmteam.human.interactions import LISTED, request_channel
from llmteam.human.models import (
    DEFAULT_TIMEOUT,
    InteractionMessage,
    InteractionPriority,
    InteractionRequest,
    InteractionResponse,
    InteractionType,
    NotificationConfig,
)
from llmteam.human.rulings import Case, Policy, Ruling
from llmteam.human.stores import InteractionStore
from llmteam.ids import Clock, new_id, utc_now
from llmteam.runtime.context import current_runtime, get_current_step
from llmteam.tenancy.context import DEFAULT_TENANT, TenantContext, get_current_tenant
from llmteam.tenancy.exceptions import TenantContextError

if TYPE_CHECKING:
    from llmteam.human.notifications import NotificationChannel

logger = logging.getLogger(__name__)

#: Characters of a title that is taken from a message.
TITLE_LENGTH = 120
#: Seconds after which a waiter looks although nothing woke it.
POLL_SECONDS = 1.0

Duration = timedelta | float


class AuditLike(Protocol):
    """What a manager needs of an audit trail, for stores that do not write it themselves."""

    async def record(self, drafts: Sequence[AuditDraft]) -> object: ...


class HumanInteractionManager:
    """Asks people and hands on what they answer.

    Args:
        store: where requests live.
        notification_config: channels to set up. They, and those that are registered, serve stores that keep no
            notifications; those of a store in SQL are delivered by workers, through the channels of their settings.
        audit_trail: where changes are recorded; a store in SQL records them itself, in the same transaction.
        policy: who may answer.
    """

    def __init__(
        self,
        store: InteractionStore,
        notification_config: NotificationConfig | None = None,
        audit_trail: AuditLike | None = None,
        *,
        policy: Policy = rules.may_answer,
        clock: Clock = utc_now,
    ) -> None:
        self.store = store
        self.notification_config = notification_config or NotificationConfig()
        self.audit_trail = audit_trail
        self.channels: dict[str, NotificationChannel] = {}
        if notification_config is not None:
            from llmteam.human.telling import channels_of

            self.channels.update(channels_of(notification_config))
        self._policy = policy
        self._clock = clock

    # -- asking

    async def request_approval(
        self, title: str | None = None, description: str | None = None, *, message: str | None = None, **fields: Any
    ) -> InteractionRequest:
        """Ask whether something may happen.

        ``fields`` are those of :class:`InteractionRequest`, with ``assignee`` for the assignee's id and durations as
        ``timedelta`` or seconds. Raises :class:`InvalidRequestError`.
        """
        fields.setdefault("step_name", "approval")
        return await self._ask(InteractionType.APPROVAL, title, description, message, fields)

    async def request_choice(
        self, title: str, description: str, options: Sequence[Mapping[str, Any]], **fields: Any
    ) -> InteractionRequest:
        """Ask for one of ``options``, each named by its ``id``, ``value`` or ``label``."""
        fields["options"] = list(options)
        return await self._ask(InteractionType.CHOICE, title, description, None, fields)

    async def request_input(
        self, title: str, description: str, input_schema: Mapping[str, Any], **fields: Any
    ) -> InteractionRequest:
        """Ask for data that satisfies a JSON Schema."""
        fields["input_schema"] = input_schema
        return await self._ask(InteractionType.INPUT, title, description, None, fields)

    async def request_review(
        self, title: str, description: str, context_data: Mapping[str, Any], **fields: Any
    ) -> InteractionRequest:
        """Ask for a look at ``context_data``: approval, rejection, or changes."""
        fields["context_data"] = context_data
        return await self._ask(InteractionType.REVIEW, title, description, None, fields)

    async def request_chat(self, message: str, *, assignee: str | None = None, **fields: Any) -> InteractionRequest:
        """Begin a chat, which the person or the caller closes."""
        title = fields.pop("title", None)
        return await self._ask(InteractionType.CHAT, title, None, message, {**fields, "assignee": assignee})

    async def _ask(
        self,
        kind: InteractionType,
        title: str | None,
        description: str | None,
        message: str | None,
        fields: dict[str, Any],
    ) -> InteractionRequest:
        text = description if description is not None else (message or "")
        first_line = text.strip().split("\n", 1)[0][:TITLE_LENGTH]
        return await self.ask(self._new(kind, title if title is not None else first_line, text, fields))

    async def ask(self, request: InteractionRequest) -> InteractionRequest:
        """Open a request as it is given, with a fresh id, for the current tenant.

        Raises :class:`InvalidRequestError`.
        """
        request = request.changed(request_id=new_id(), tenant_id=self.store.tenant())
        ruling = rules.open_request(request, self._clock())
        kept = await self.store.call(self.store.core.create, ruling)
        await self.settle()
        return await self.get_request(kept.request_id) or kept

    def _new(self, kind: InteractionType, title: str, text: str, fields: dict[str, Any]) -> InteractionRequest:
        given = dict(fields)
        assignee = given.pop("assignee", None)
        if assignee is not None:
            given["assignee_id"] = assignee
        for name in ("context_data", "escalation_chain"):
            if given.get(name) is None:
                given.pop(name, None)
        runtime, step = current_runtime.get(), get_current_step()
        given.setdefault("run_id", "" if runtime is None else runtime.run_id)
        given.setdefault("agent_name", "" if step is None else step.step_id)
        given.setdefault("pipeline_id", "")
        given.setdefault("step_name", "")
        given.setdefault("timeout", DEFAULT_TIMEOUT)
        given.setdefault("priority", InteractionPriority.NORMAL)
        try:
            return InteractionRequest(
                request_id="",
                interaction_type=kind,
                tenant_id="",
                title=title,
                description=text,
                **given,
            )
        except (TypeError, ValueError) as exc:
            raise InvalidRequestError(f"a request cannot be asked like this: {problems_of(exc)}") from None

    # -- answering

    async def respond(
        self,
        request_id: str,
        responder_id: str,
        *,
        approved: bool | None = None,
        selected_option: str | None = None,
        input_data: Mapping[str, Any] | None = None,
        review_changes: Mapping[str, Any] | None = None,
        comment: str = "",
        reason: str = "",
        groups: Collection[str] = (),
        shown_hash: str | None = None,
        link: tuple[str, datetime] | None = None,
    ) -> InteractionResponse:
        """Answer a request; the first valid answer wins.

        ``groups`` are those that the responder is known to be in. ``shown_hash`` says what they saw; when that has
        changed the answer is refused. ``link`` is the id and the end of a one-use link that is used up with it.

        Raises the errors of :mod:`llmteam.human.exceptions`; then nothing has changed.
        """
        response = _response(
            request_id,
            responder_id=responder_id,
            approved=approved,
            selected_option=selected_option,
            input_data={} if input_data is None else input_data,
            review_changes={} if review_changes is None else review_changes,
            comment=comment,
            reason=reason,
            shown_hash=shown_hash,
        )
        answer = await self._checked(rules.Answer(response, groups, link))
        ruling = await self._apply(request_id, lambda case, now: rules.respond(case, answer, now, self._policy))
        assert ruling.vote is not None
        return ruling.vote

    async def _checked(self, answer: rules.Answer) -> rules.Answer:
        """An answer that was tried on the request as it is, without a lock: its schema may take long to check.

        Raises what :func:`rules.respond` raises.
        """
        case = await self.store.call(self.store.core.case, self.store.tenant(), answer.response.request_id)
        if case is None:
            return answer
        await asyncio.to_thread(rules.respond, case, answer, self._clock(), self._policy)
        return replace(answer, checked=case.request.shown_hash)

    async def send_message(
        self, request_id: str, sender_id: str, text: str, *, groups: Collection[str] = ()
    ) -> InteractionMessage:
        """Write into a chat."""
        ruling = await self._apply(
            request_id, lambda case, now: rules.send_message(case, sender_id, text, now, groups, self._policy)
        )
        assert ruling.message is not None
        return ruling.message

    async def get_messages(self, request_id: str, after: int = 0) -> list[InteractionMessage]:
        """The messages of a chat in order, those with a number greater than ``after``."""
        return await self.store.call(self.store.core.messages, self.store.tenant(), request_id, after)

    async def close_chat(self, request_id: str, responder_id: str, **answer: Any) -> InteractionResponse:
        """End a chat; its answer may carry what came of it."""
        return await self.respond(request_id, responder_id, **answer)

    async def claim(self, request_id: str, user_id: str, *, groups: Collection[str] = ()) -> InteractionRequest:
        """Say who works on it."""
        return (
            await self._apply(request_id, lambda case, now: rules.claim(case, user_id, now, groups, self._policy))
        ).request

    async def delegate(
        self, request_id: str, user_id: str, to: str, *, groups: Collection[str] = ()
    ) -> InteractionRequest:
        """Hand it to somebody else, as somebody who may answer."""
        return (
            await self._apply(
                request_id, lambda case, now: rules.delegate(case, user_id, to, now, groups, self._policy)
            )
        ).request

    async def reassign(self, request_id: str, assignee: str, *, by: str = "") -> InteractionRequest:
        """Give it to somebody else, as an operator."""
        return (await self._apply(request_id, lambda case, now: rules.reassign(case, assignee, now, by))).request

    async def amend(self, request_id: str, *, by: str = "", **shown: Any) -> InteractionRequest:
        """Change what is shown; answers about what was shown before are refused from then on."""
        return (await self._apply(request_id, lambda case, now: rules.amend(case, now, by, **shown))).request

    async def cancel(self, request_id: str, reason: str = "", *, by: str = "") -> InteractionRequest:
        """Nobody needs to answer any more."""
        return (await self._apply(request_id, lambda case, now: rules.cancel(case, now, reason, by))).request

    # -- looking

    async def get_request(self, request_id: str) -> InteractionRequest | None:
        """The request, or None."""
        await self.settle()
        return await self.store.get(request_id)

    async def list_pending(self, tenant_id: str | None = None) -> list[InteractionRequest]:
        """The open requests of a tenant (the current one), oldest deadline first."""
        await self.settle()
        return await self.store.list_pending(self.store.tenant() if tenant_id is None else tenant_id)

    async def wait_for_response(
        self,
        request_id: str,
        timeout: Duration | None = None,  # noqa: ASYNC109  # the contract's name
    ) -> InteractionResponse | None:
        """The answer, as soon as there is one, given in whatever process; None when it will not come in time.

        ``timeout`` is a ``timedelta`` or seconds, by default the time left to the deadline; 0 looks once. The end of
        the wait changes nothing about the request. Subscribe, then look, then wait: no answer is missed.
        """
        tenant, core = self.store.tenant(), self.store.core
        await self.settle()
        case = await self.store.call(core.case, tenant, request_id)
        if case is None or case.response is not None or not case.request.status.is_open:
            return None if case is None else case.response
        now = self._clock()
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        ends = None if seconds is None else now + timedelta(seconds=min(seconds, 1e9))
        with core.wakeup.subscribe(request_channel(tenant, request_id)) as watch:
            while True:
                await self.settle()
                case = await self.store.call(core.case, tenant, request_id)
                if case is None or not case.request.status.is_open:
                    return None if case is None else case.response
                deadline = None if case.request.frozen_at is not None else case.request.deadline
                end = ends if ends is not None else deadline
                left = POLL_SECONDS if end is None else (end - self._clock()).total_seconds()
                if left <= 0:
                    return None
                await watch.wait_async(min(left, POLL_SECONDS))

    # -- telling

    def register_channel(self, name: str, channel: NotificationChannel) -> None:
        """Notify through ``channel`` too, if the store keeps no notifications: of what happens from now on."""
        if not self.channels and self.audit_trail is None:
            self.store.core.drain()
        self.channels[name] = channel

    def close(self) -> None:
        """Let go of the store's connections."""
        self.store.close()

    async def _apply(self, request_id: str, rule: Callable[[Case, datetime], Ruling]) -> Ruling:
        await self.settle()
        tenant, now = self.store.tenant(), self._clock()
        ruling = await self.store.call(self.store.core.apply, tenant, request_id, lambda case: rule(case, now))
        assert ruling is not None
        await self.settle()
        return ruling

    async def settle(self) -> None:
        """What a store in SQL leaves to workers and its transactions, for one that does not: whatever time has come for
        happens, people are told, and all of it is recorded. Managers do this whenever they are asked something.
        """
        core, now = self.store.core, self._clock()
        if core.keeps_notifications and core.keeps_audit:
            return
        for due in await self.store.call(core.take_due, LISTED):
            await self.store.call(core.apply, due.tenant_id, due.request_id, lambda case: catch_up(case, now))
        if not self.channels and self.audit_trail is None:
            # Another manager of the same store may be the one that tells and records.
            return
        for ruling in await self.store.call(core.drain):
            if self.channels and not core.keeps_notifications and ruling.notices:
                from llmteam.human.telling import tell

                await tell(self.store, self.channels, ruling, now)
            if not core.keeps_audit and ruling.audit:
                await self._record(ruling)

    async def _record(self, ruling: Ruling) -> None:
        """Record a change in the trail of its own tenant, whoever is asking while its time has come."""
        tenant, trail = ruling.request.tenant_id, self.audit_trail
        if trail is None:
            return
        if tenant == (get_current_tenant() or DEFAULT_TENANT):
            await trail.record(ruling.audit)
            return
        with TenantContext(tenant):
            try:
                await trail.record(ruling.audit)
            except TenantContextError as exc:
                # The trail is another tenant's, and so is whoever is asking: neither may be told, or kept waiting.
                logger.warning("what happened to request %s is not recorded: %s", ruling.request.request_id, exc)


def _response(request_id: str, **fields: Any) -> InteractionResponse:
    try:
        return InteractionResponse(request_id=request_id, **fields)
    except ValidationError as exc:
        raise InvalidResponseError(request_id, problems_of(exc)) from None
