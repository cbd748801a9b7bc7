"""A webhook of the operator's own: a program that tells people, or answers itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.actions.attempts import SIGNATURE_HEADER, post
from llmteam.human.notifications.channels import POST_SECONDS, BuiltinChannel
from llmteam.human.notifications.messages import Message
from llmteam.ids import Clock, utc_now

__all__ = ["SIGNATURE_HEADER", "WebhookNotificationChannel", "webhook_payload"]

if TYPE_CHECKING:
    from llmteam.net.guard import OutboundGuard


class WebhookNotificationChannel(BuiltinChannel):
    """Posts notifications as JSON to one address.

    With ``key`` the body is signed, see :func:`~llmteam.crypto.verify_webhook`. The address's host and port are
    trusted, on a private network too. Raises :class:`ConfigurationError` for what is no http or https URL.
    """

    def __init__(
        self,
        webhook_url: str,
        *,
        key: bytes | str | None = None,
        guard: OutboundGuard | None = None,
        clock: Clock = utc_now,
    ) -> None:
        from llmteam.net import UrlClient

        self._client = UrlClient(webhook_url, timeout=POST_SECONDS, guard=guard)
        self._key = key.encode() if isinstance(key, str) else key
        self._clock = clock

    def deliver(self, message: Message) -> None:
        """As :meth:`BuiltinChannel.deliver`."""
        post(self._client, webhook_payload(message), key=self._key, clock=self._clock)


def webhook_payload(message: Message) -> dict[str, Any]:
    """What is posted.

    ``respond_url`` is the answer link of a single recipient, else the inbox's page. ``respond_urls`` has each person's
    own link: whoever holds it answers as that person.
    """
    request = message.request
    alone = message.recipients[0] if len(message.recipients) == 1 else ""
    return {
        "request_id": request.request_id,
        "type": request.interaction_type.value,
        "title": request.title,
        "description": request.description,
        "priority": request.priority.value,
        "assignees": list(message.recipients),
        "deadline": message.deadline or None,
        "pipeline_id": request.pipeline_id,
        "run_id": request.run_id,
        "tenant_id": request.tenant_id,
        "status": request.status.value,
        "escalation_level": request.current_escalation_level,
        "respond_url": message.link_for(alone) or None,
        "respond_urls": dict(message.answer_links),
        "kind": message.kind.value,
        "notification_id": message.notification_id,
    }
