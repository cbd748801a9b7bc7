"""Telling people that they are asked: Slack, Teams, e-mail, a webhook, or a channel of your own."""

from __future__ import annotations

from llmteam.crypto import sign_webhook, verify_webhook
from llmteam.human.notifications.channels import BuiltinChannel, NotificationChannel
from llmteam.human.notifications.mail import EmailNotificationChannel
from llmteam.human.notifications.messages import Message
from llmteam.human.notifications.slack import SlackNotificationChannel
from llmteam.human.notifications.teams import TeamsNotificationChannel
from llmteam.human.notifications.webhook import SIGNATURE_HEADER, WebhookNotificationChannel

__all__ = [
    "SIGNATURE_HEADER",
    "BuiltinChannel",
    "EmailNotificationChannel",
    "Message",
    "NotificationChannel",
    "SlackNotificationChannel",
    "TeamsNotificationChannel",
    "WebhookNotificationChannel",
    "sign_webhook",
    "verify_webhook",
]
