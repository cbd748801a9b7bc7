"""Managers on a store in memory tell people themselves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest

from llmteam.errors import ConfigurationError
from llmteam.human import (
    HumanInteractionManager,
    InteractionRequest,
    InteractionStatus,
    MemoryInteractionStore,
    NotificationConfig,
)
from llmteam.human.notifications import NotificationChannel, SlackNotificationChannel
from llmteam.net import OutboundGuard, use_guard
from tests.mailbox import mail_server
from tests.unit.human.messages import ADA, BOB
from tests.unit.net.loopback import Loopback, serving


class Notebook(NotificationChannel):
    """A channel that writes down whom it was asked to tell, and answers as it is told."""

    def __init__(self, answer: bool | Exception = True) -> None:
        self.told: list[tuple[str, list[str]]] = []
        self.answer = answer

    async def send(self, request: InteractionRequest, recipients: list[str]) -> bool:
        self.told.append((request.status.value, recipients))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def server() -> Iterator[Loopback]:
    use_guard(OutboundGuard())
    with serving() as running:
        running.routes["/hook"] = lambda handler: handler.answer(200)
        yield running
    use_guard(None)


def asked(manager: HumanInteractionManager, **fields: object) -> InteractionRequest:
    return asyncio.run(manager.request_approval(message="Pay?", assignee=ADA, **fields))


def test_a_request_that_a_channel_took_is_notified() -> None:
    manager, notebook = HumanInteractionManager(MemoryInteractionStore()), Notebook()
    manager.register_channel("notebook", notebook)

    assert asked(manager).status is InteractionStatus.NOTIFIED
    assert notebook.told == [("pending", [ADA])]


def test_without_a_channel_it_stays_pending() -> None:
    assert asked(HumanInteractionManager(MemoryInteractionStore())).status is InteractionStatus.PENDING


def test_a_request_for_nobody_in_particular_is_told_with_no_recipients() -> None:
    manager, notebook = HumanInteractionManager(MemoryInteractionStore()), Notebook()
    manager.register_channel("notebook", notebook)

    asyncio.run(manager.request_approval(message="Pay?"))

    assert notebook.told == [("pending", [])]


def test_a_channel_that_fails_keeps_neither_the_others_nor_the_caller_from_going_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager, works = HumanInteractionManager(MemoryInteractionStore()), Notebook()
    manager.register_channel("broken", Notebook(RuntimeError("s3cret")))
    manager.register_channel("works", works)

    with caplog.at_level(logging.WARNING):
        request = asked(manager)

    assert request.status is InteractionStatus.NOTIFIED
    assert len(works.told) == 1
    assert "the channel 'broken' failed: RuntimeError" in caplog.text
    assert "s3cret" not in caplog.text


def test_when_no_channel_takes_it_the_request_stays_pending() -> None:
    manager = HumanInteractionManager(MemoryInteractionStore())
    manager.register_channel("no", Notebook(answer=False))
    manager.register_channel("broken", Notebook(ValueError()))

    assert asked(manager).status is InteractionStatus.PENDING


def test_whoever_gets_it_later_is_told_too() -> None:
    manager, notebook = HumanInteractionManager(MemoryInteractionStore()), Notebook()
    manager.register_channel("notebook", notebook)
    request = asked(manager)

    asyncio.run(manager.reassign(request.request_id, BOB))
    asyncio.run(manager.amend(request.request_id, title="Pay 12?"))

    assert notebook.told[1:] == [("notified", [BOB]), ("notified", [BOB])]


def test_an_answer_tells_nobody() -> None:
    manager, notebook = HumanInteractionManager(MemoryInteractionStore()), Notebook()
    request = asked(manager)
    manager.register_channel("notebook", notebook)

    asyncio.run(manager.respond(request.request_id, ADA, approved=True))

    assert notebook.told == []


def test_a_configuration_sets_channels_up(server: Loopback) -> None:
    config = NotificationConfig(
        slack_enabled=True,
        slack_webhook_url=f"{server.url}/hook",
        slack_channel="#pay",
        slack_template="{title} by {deadline}",
        webhook_enabled=True,
        custom_webhook_url=f"{server.url}/hook",
    )

    request = asked(HumanInteractionManager(MemoryInteractionStore(), config))

    assert request.status is InteractionStatus.NOTIFIED
    bodies = [json.loads(received.body) for received in server.received]
    (slack,) = [body for body in bodies if "channel" in body]
    assert request.deadline is not None
    assert (slack["channel"], slack["text"]) == ("#pay", f"Pay? by {request.deadline.isoformat()}")
    (webhook,) = [body for body in bodies if "request_id" in body]
    assert webhook["request_id"] == request.request_id


def test_a_configuration_sends_mail_through_the_server_of_the_settings(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server() as mailbox:
        monkeypatch.setenv("LLMTEAM_SMTP_URL", mailbox.url())
        config = NotificationConfig(email_template="Please look: {title}")
        request = asked(HumanInteractionManager(MemoryInteractionStore(), config))

    assert request.status is InteractionStatus.NOTIFIED
    (mail,) = mailbox.messages
    assert mail.get_content().strip() == "Please look: Pay?"


def test_a_manager_without_a_configuration_sends_no_mail(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server() as mailbox:
        monkeypatch.setenv("LLMTEAM_SMTP_URL", mailbox.url())
        asked(HumanInteractionManager(MemoryInteractionStore()))

    assert mailbox.messages == []


def test_a_configuration_with_an_address_that_is_none_is_refused_at_once() -> None:
    config = NotificationConfig(slack_enabled=True, slack_webhook_url="hooks.slack.com")

    with pytest.raises(ConfigurationError):
        HumanInteractionManager(MemoryInteractionStore(), config)


def test_a_receiver_that_is_away_is_no_error_of_the_caller(server: Loopback) -> None:
    manager = HumanInteractionManager(MemoryInteractionStore())
    manager.register_channel("slack", SlackNotificationChannel(f"{server.url}/nobody"))

    assert asked(manager).status is InteractionStatus.PENDING
