"""The channels that settings, or a manager's configuration, ask for."""

from __future__ import annotations

from llmteam.human.models import NotificationConfig
from llmteam.human.notifications.channels import BuiltinChannel
from llmteam.human.notifications.mail import EmailNotificationChannel
from llmteam.human.notifications.slack import SlackNotificationChannel
from llmteam.human.notifications.teams import TeamsNotificationChannel
from llmteam.human.notifications.webhook import WebhookNotificationChannel
from llmteam.settings import Settings


def channels_of_settings(settings: Settings) -> dict[str, BuiltinChannel]:
    """By name, the channels whose addresses the settings have. Raises :class:`ConfigurationError`."""
    channels: dict[str, BuiltinChannel] = {}
    if settings.smtp_url is not None:
        channels["email"] = EmailNotificationChannel(settings.smtp_url)
    if settings.notify_slack_url is not None:
        channels["slack"] = SlackNotificationChannel(settings.notify_slack_url)
    if settings.notify_teams_url is not None:
        channels["teams"] = TeamsNotificationChannel(settings.notify_teams_url)
    if settings.notify_webhook_url is not None:
        key = settings.notify_webhook_key
        channels["webhook"] = WebhookNotificationChannel(settings.notify_webhook_url, key=key)
    return channels


def channels_of_config(config: NotificationConfig, smtp_url: str | None) -> dict[str, BuiltinChannel]:
    """By name, the channels that are enabled and have an address. Raises :class:`ConfigurationError`."""
    channels: dict[str, BuiltinChannel] = {}
    if config.email_enabled and smtp_url is not None:
        channels["email"] = EmailNotificationChannel(smtp_url, template=config.email_template)
    if config.slack_enabled and config.slack_webhook_url:
        channels["slack"] = SlackNotificationChannel(
            config.slack_webhook_url, config.slack_channel, template=config.slack_template
        )
    if config.teams_enabled and config.teams_webhook_url:
        channels["teams"] = TeamsNotificationChannel(config.teams_webhook_url)
    if config.webhook_enabled and config.custom_webhook_url:
        channels["webhook"] = WebhookNotificationChannel(config.custom_webhook_url)
    return channels
