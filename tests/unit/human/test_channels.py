"""The channels over real connections: what arrives, and what is told when it does not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.human.models import NotificationConfig
from llmteam.human.notifications import (
    EmailNotificationChannel,
    SlackNotificationChannel,
    TeamsNotificationChannel,
    WebhookNotificationChannel,
    verify_webhook,
)
from llmteam.human.notifications.configured import channels_of_config, channels_of_settings
from llmteam.net import OutboundGuard, use_guard
from llmteam.settings import Settings
from tests.mailbox import mail_server
from tests.unit.human.messages import ADA, BOB, NOW, message, request
from tests.unit.net.loopback import Loopback, serving

KEY = "a key of at least thirty-two characters"


@pytest.fixture
def server() -> Iterator[Loopback]:
    use_guard(OutboundGuard())
    with serving() as running:
        running.routes["/services/s3cret"] = lambda handler: handler.answer(200, b"ok")
        yield running
    use_guard(None)


def test_slack_takes_a_notification(server: Loopback) -> None:
    channel = SlackNotificationChannel(f"{server.url}/services/s3cret", "#approvals")

    assert asyncio.run(channel.send(request(), [ADA]))

    (received,) = server.received
    assert received.method == "POST"
    assert json.loads(received.body)["text"] == "*Pay 12,000?*\nInvoice A-17\nof ACME"


def test_teams_takes_a_notification(server: Loopback) -> None:
    channel = TeamsNotificationChannel(f"{server.url}/services/s3cret?sig=s3cret")

    assert asyncio.run(channel.send(request(), [ADA]))

    (received,) = server.received
    assert received.path == "/services/s3cret?sig=s3cret"
    assert json.loads(received.body)["type"] == "message"


def test_a_webhook_is_signed(server: Loopback) -> None:
    channel = WebhookNotificationChannel(f"{server.url}/services/s3cret", key=KEY, clock=lambda: NOW)

    channel.deliver(message())

    (received,) = server.received
    assert received.headers["content-type"] == "application/json"
    assert verify_webhook(KEY, received.headers["x-llmteam-signature"], received.body, NOW)


def test_a_webhook_without_a_key_is_not_signed(server: Loopback) -> None:
    WebhookNotificationChannel(f"{server.url}/services/s3cret").deliver(message())

    assert "x-llmteam-signature" not in server.received[0].headers


@pytest.mark.parametrize("status", [302, 400, 404, 500, 503])
def test_a_channel_that_answers_no_has_not_taken_it(
    server: Loopback, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.routes["/services/s3cret"] = lambda handler: handler.answer(status, b"no", Location="/services/other")
    channel = SlackNotificationChannel(f"{server.url}/services/s3cret")

    with caplog.at_level(logging.WARNING):
        assert not asyncio.run(channel.send(request(), [ADA]))

    assert f"HTTP {status}" in caplog.text
    assert "s3cret" not in caplog.text
    assert len(server.received) == 1


def test_the_secret_path_of_an_address_is_in_no_error(server: Loopback) -> None:
    server.routes["/services/s3cret"] = lambda handler: handler.hang_up(b"")
    channel = SlackNotificationChannel(f"{server.url}/services/s3cret")

    with pytest.raises(LLMTeamError) as broke:
        channel.deliver(message())

    assert "s3cret" not in str(broke.value)
    assert (broke.value.__cause__, broke.value.__context__) == (None, None)


def test_a_longwinded_yes_is_a_yes(server: Loopback) -> None:
    server.routes["/services/s3cret"] = lambda handler: handler.answer(200, b"x" * 2_000_000)

    assert asyncio.run(SlackNotificationChannel(f"{server.url}/services/s3cret").send(request(), []))


@pytest.mark.parametrize("channel", [SlackNotificationChannel, TeamsNotificationChannel, WebhookNotificationChannel])
@pytest.mark.parametrize("url", ["", "hooks.slack.com/s3cret", "ftp://x/s3cret", "https://a:s3cret@x/"])
def test_an_address_that_is_none_is_refused_at_once_and_not_told(channel, url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        channel(url)

    assert "s3cret" not in str(refused.value)


def test_everybody_whose_name_is_an_address_gets_a_mail_of_their_own(server: Loopback) -> None:
    with mail_server() as mailbox:
        channel = EmailNotificationChannel(mailbox.url(), clock=lambda: NOW)
        channel.deliver(message(ADA, "finance", BOB))

    assert [to for _, (to,) in mailbox.envelopes] == [ADA, BOB]
    assert mailbox.messages[0]["Date"] == "Sun, 01 Mar 2026 12:00:00 +0000"


def test_mail_to_nobody_is_not_taken(server: Loopback) -> None:
    with mail_server() as mailbox:
        assert not asyncio.run(EmailNotificationChannel(mailbox.url()).send(request(), ["finance"]))

    assert mailbox.messages == []


def test_settings_set_up_the_channels_whose_addresses_they_have() -> None:
    settings = Settings(
        smtp_url="smtp://localhost?from=inbox@example.com",
        notify_slack_url="https://hooks.slack.com/s",
        notify_webhook_url="https://hooks.example.com",
    )

    assert list(channels_of_settings(settings)) == ["email", "slack", "webhook"]
    assert channels_of_settings(Settings()) == {}


def test_a_configuration_sets_up_what_is_enabled_and_has_an_address() -> None:
    config = NotificationConfig(
        slack_enabled=True,
        slack_webhook_url="https://hooks.slack.com/s",
        teams_enabled=True,
        teams_webhook_url="https://teams.example.com",
        webhook_enabled=True,
    )

    assert list(channels_of_config(config, None)) == ["slack", "teams"]
    assert list(channels_of_config(config, "smtp://localhost?from=i@example.com")) == ["email", "slack", "teams"]
