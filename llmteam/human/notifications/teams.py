"""Microsoft Teams, through a workflow's webhook. Everybody in the channel reads what is posted there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.actions.attempts import post
from llmteam.human.notifications.channels import POST_SECONDS, BuiltinChannel
from llmteam.human.notifications.messages import Message, one_line, shortened

if TYPE_CHECKING:
    from llmteam.net.guard import OutboundGuard


class TeamsNotificationChannel(BuiltinChannel):
    """Posts notifications as Adaptive Cards to a workflow's webhook.

    Answer links are not posted, since whoever reads one could use it; the button leads to the inbox. Raises
    :class:`ConfigurationError` for what is no http or https URL.
    """

    def __init__(self, webhook_url: str, *, guard: OutboundGuard | None = None) -> None:
        from llmteam.net import UrlClient

        self._client = UrlClient(webhook_url, timeout=POST_SECONDS, guard=guard)

    def deliver(self, message: Message) -> None:
        """As :meth:`BuiltinChannel.deliver`."""
        post(self._client, teams_payload(message))


def teams_payload(message: Message) -> dict[str, Any]:
    """What is posted. Runs of text, unlike text blocks, are not read as Markdown: what people write stays as it is."""
    request = message.request
    facts = {
        "Pipeline": request.pipeline_id,
        "Priority": request.priority.value,
        "Deadline": message.deadline or "N/A",
        "Assignee": request.assignee_id or "Unassigned",
    }
    body = [
        _runs({"text": message.heading, "isSubtle": True}),
        _runs({"text": one_line(request.title), "weight": "Bolder", "size": "Medium"}),
        *([_runs({"text": shortened(request.description)})] if request.description else []),
        *(_runs({"text": f"{name}: ", "weight": "Bolder"}, {"text": value}) for name, value in facts.items() if value),
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
        "actions": [{"type": "Action.OpenUrl", "title": "Open", "url": message.inbox_url}] if message.inbox_url else [],
    }
    content_type = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": content_type, "contentUrl": None, "content": card}]}


def _runs(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", **run} for run in runs]}
