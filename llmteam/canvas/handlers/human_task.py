"""``human_task``: asks a person, and turns what they answer into ports."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from llmteam.canvas.exceptions import CanvasError
from llmteam.canvas.handlers.document import document
from llmteam.canvas.handlers.prompts import fill
from llmteam.canvas.ports import Ask, Ports
from llmteam.human.checks import problems_of
from llmteam.human.exceptions import InvalidRequestError
from llmteam.human.manager import HumanInteractionManager
from llmteam.human.models import (
    DEFAULT_TIMEOUT,
    InteractionMessage,
    InteractionRequest,
    InteractionStatus,
    InteractionType,
)
from llmteam.human.rulings import Case
from llmteam.human.stores import MemoryInteractionStore
from llmteam.runtime.context import StepContext

#: Input ports whose value, when it is the only one, is what the person sees.
PORTS = ("data",)
#: Types whose answer without a word about approval is a change of what was shown.
_MODIFIES = (InteractionType.REVIEW, InteractionType.INPUT)
#: Configuration in hours, by the field of the request.
_HOURS = {
    "timeout": "timeout_hours",
    "sla_warning": "sla_warning_hours",
    "sla_breach": "sla_breach_hours",
    "reminder": "reminder_hours",
}
_AS_THEY_ARE = ("assignee_group", "quorum", "approvers", "four_eyes", "escalation_chain", "input_schema")


class HumanTaskTimeoutError(CanvasError, TimeoutError):
    """Nobody answered in time, and no edge leaves the step's port ``timeout``."""

    retryable = False

    def __init__(self, step_id: str, request_id: str) -> None:
        super().__init__(
            f"Step '{step_id}': nobody answered request '{request_id}' in time; raise timeout_hours, name an "
            "escalation_chain, or add an edge from the port 'timeout'"
        )
        self.step_id = step_id
        self.request_id = request_id


class HumanTaskCancelledError(CanvasError):
    """The request was cancelled while the run goes on."""

    retryable = False

    def __init__(self, step_id: str, request_id: str) -> None:
        super().__init__(f"Step '{step_id}': request '{request_id}' was cancelled before anybody answered it")
        self.step_id = step_id
        self.request_id = request_id


def ask_person(ctx: StepContext, config: Mapping[str, Any], input_data: Any) -> Ask:
    """The request that a step's configuration describes; title and description may name keys of the input.

    An unknown ``task_type`` is an approval. Raises :class:`PromptError`, :class:`InvalidRequestError`.
    """
    known = set(InteractionType)
    kind = InteractionType(config["task_type"]) if config.get("task_type") in known else InteractionType.APPROVAL
    fields: dict[str, Any] = {name: config[name] for name in _AS_THEY_ARE if config.get(name) is not None}
    for name, key in _HOURS.items():
        if config.get(key) is not None:
            fields[name] = timedelta(hours=config[key])
    if kind is InteractionType.CHOICE:
        fields["options"] = [
            {"id": str(index), "label": text} for index, text in enumerate(config.get("choices") or ())
        ]
    what = document(ctx, input_data, PORTS)
    shown = what if isinstance(what, dict) else {"data": what}
    fields |= dict.fromkeys(("request_id", "run_id", "pipeline_id", "tenant_id"), "")
    try:
        request = InteractionRequest(
            interaction_type=kind,
            agent_name=ctx.step_id,
            step_name=ctx.step_id,
            title=fill(str(config.get("title") or f"Step '{ctx.step_id}' asks for {kind.value}"), what),
            description=fill(str(config.get("description") or ""), what),
            context_data=shown if config.get("show_input", True) else {},
            assignee_id=config.get("assignee_ref"),
            priority=config.get("priority", "normal"),
            **fields,
        )
    except ValidationError as exc:
        problem = problems_of(exc)
        raise InvalidRequestError(f"step '{ctx.step_id}' cannot ask a person like this: {problem}") from None
    return Ask(request)


def answer_ports(
    case: Case, given: Any, messages: Sequence[InteractionMessage] = (), *, leaving: Collection[str] = ()
) -> Ports:
    """The one port that the end of a request makes live; ``given`` is the step's input, ``leaving`` the ports that
    edges leave. What somebody enters goes to ``modified``, unless only ``approved`` leads anywhere.

    Raises :class:`HumanTaskTimeoutError`, :class:`HumanTaskCancelledError`.
    """
    request, response = case.request, case.response
    if response is None:
        if request.status is InteractionStatus.CANCELLED:
            raise HumanTaskCancelledError(request.step_name, request.request_id)
        if "timeout" not in leaving:
            raise HumanTaskTimeoutError(request.step_name, request.request_id)
        last = {"assignee": request.assignee_id, "escalations": request.current_escalation_level}
        return Ports({"timeout": {"data": given, **last}})
    told: dict[str, Any] = {"responder": response.responder_id, "comment": response.comment}
    if messages:
        told["messages"] = [{"sender_id": m.sender_id, "text": m.text} for m in messages]
    data = response.input_data or response.review_changes
    if response.approved is False:
        return Ports({"rejected": {"data": given, "response_data": data, "reason": response.reason, **told}})
    entered = request.interaction_type is InteractionType.INPUT and "approved" in leaving and "modified" not in leaving
    if response.approved is None and request.interaction_type in _MODIFIES and not entered:
        changed = response.review_changes or response.input_data or given
        return Ports({"modified": {"data": changed, "original_data": given, **told}})
    if request.interaction_type is InteractionType.CHOICE:
        told["selected_option"] = response.selected_option
        told["selected_label"] = _label(request, response.selected_option)
    return Ports({"approved": {"data": given, "response_data": data, **told}})


def _label(request: InteractionRequest, selected: str | None) -> str | None:
    for option in request.options:
        if selected is not None and selected in [str(option[k]) for k in ("id", "value", "label") if k in option]:
            return str(option.get("label", selected))
    return selected


class HumanTaskHandler:
    """Asks people through a manager. For an in-process runner; workers ask through their own store.

    A runner parks the step. Called directly it waits for the answer itself, and raises
    :class:`HumanTaskTimeoutError` when there is none in time.

    Args:
        manager: who keeps the requests; one in memory by default.
        timeout_seconds: how long a step waits whose configuration has no ``timeout_hours``.
    """

    def __init__(
        self,
        manager: HumanInteractionManager | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT.total_seconds(),
    ) -> None:
        self.manager = manager or HumanInteractionManager(MemoryInteractionStore())
        self.timeout_seconds = timeout_seconds

    def ask(self, ctx: StepContext, config: Mapping[str, Any], input_data: Any, /) -> Ask:
        """What the step asks. Raises as :func:`ask_person`."""
        if config.get("timeout_hours") is None:
            config = {**config, "timeout_hours": self.timeout_seconds / 3600}
        return ask_person(ctx, config, input_data)

    async def __call__(self, ctx: StepContext, config: Mapping[str, Any], input_data: Any, /) -> Ports:
        asked = self.ask(ctx, config, input_data).request
        request = await self.manager.ask(asked.changed(run_id=ctx.run_id, pipeline_id=ctx.runtime.segment_id))
        await self.manager.wait_for_response(request.request_id)
        core, tenant = self.manager.store.core, self.manager.store.tenant()
        case = await self.manager.store.call(core.case, tenant, request.request_id)
        messages = await self.manager.get_messages(request.request_id)
        assert case is not None
        return answer_ports(case, document(ctx, input_data, PORTS), messages)


def create_human_task_handler(manager: HumanInteractionManager | None = None) -> HumanTaskHandler:
    """A handler of ``human_task`` steps for an in-process runner."""
    return HumanTaskHandler(manager)
