"""Slack, through an incoming webhook. Everybody in the channel reads what is posted there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.actions.attempts import post
from llmteam.human.models import InteractionPriority, InteractionRequest, InteractionType, NotificationKind
from llmteam.human.notifications.channels import POST_SECONDS, BuiltinChannel
from llmteam.human.notifications.messages import Message, Template, one_line, shortened

if TYPE_CHECKING:
    from llmteam.net.guard import OutboundGuard

_COLOURS = {
    InteractionPriority.LOW: "#36a64f",
    InteractionPriority.NORMAL: "#2196f3",
    InteractionPriority.HIGH: "#ff9800",
    InteractionPriority.CRITICAL: "#f44336",
}
#: Buttons that an attachment shows at most.
_MOST_BUTTONS = 5


class SlackNotificationChannel(BuiltinChannel):
    """Posts notifications to an incoming webhook of Slack; ``channel`` overrides where the webhook posts.

    Answer links are not posted, since whoever reads one could use it; buttons lead to the inbox. ``template`` replaces
    the text. Raises :class:`ConfigurationError` for what is no http or https URL.
    """

    def __init__(
        self, webhook_url: str, channel: str = "", *, template: str = "", guard: OutboundGuard | None = None
    ) -> None:
        from llmteam.net import UrlClient

        self.channel = channel
        self._template = Template(template)
        self._client = UrlClient(webhook_url, timeout=POST_SECONDS, guard=guard)

    def deliver(self, message: Message) -> None:
        """As :meth:`BuiltinChannel.deliver`."""
        post(self._client, slack_payload(message, self.channel, self._template))


def slack_payload(message: Message, channel: str = "", template: Template | None = None) -> dict[str, Any]:
    """What is posted: title and description, and one attachment with the facts and the buttons."""
    request = message.request
    attachment = {
        "color": _COLOURS[request.priority],
        "fields": [
            _field("Pipeline", request.pipeline_id),
            _field("Priority", request.priority.value),
            _field("Deadline", message.deadline or "N/A"),
            _field("Assignee", request.assignee_id or "Unassigned"),
        ],
        "actions": _actions(message),
    }
    return {"channel": channel, "text": _text(message, template), "attachments": [attachment]}


def _text(message: Message, template: Template | None) -> str:
    if template:
        return template.fill({name: _plain(value) for name, value in message.fields(message.inbox_url).items()})
    request = message.request
    text = f"*{_plain(one_line(request.title))}*\n{_plain(shortened(request.description))}"
    return text if message.kind is NotificationKind.REQUESTED else f"{message.heading}: {text}"


def _plain(text: str) -> str:
    """``text`` without what Slack reads as mentions and links (its manual, "Escaping text")."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _field(title: str, value: str) -> dict[str, Any]:
    return {"title": title, "value": _plain(value), "short": True}


def _actions(message: Message) -> list[dict[str, Any]]:
    request = message.request
    if message.kind is NotificationKind.TIMED_OUT:
        return []
    if request.interaction_type is InteractionType.APPROVAL:
        approve = _button(message, "Approve", f"approve:{request.request_id}")
        reject = _button(message, "Reject", f"reject:{request.request_id}")
        return [{**approve, "style": "primary"}, {**reject, "style": "danger"}]
    if request.interaction_type is InteractionType.CHOICE:
        return [_option(message, request, option) for option in request.options[:_MOST_BUTTONS]]
    return []


def _option(message: Message, request: InteractionRequest, option: dict[str, Any]) -> dict[str, Any]:
    names = [str(option[key]) for key in ("label", "value", "id") if key in option]
    values = [str(option[key]) for key in ("id", "value", "label") if key in option]
    return _button(message, names[0], f"select:{request.request_id}:{values[0]}")


def _button(message: Message, text: str, value: str) -> dict[str, Any]:
    button = {"type": "button", "text": one_line(text, 75), "value": value}
    return {**button, "url": message.inbox_url} if message.inbox_url else button
