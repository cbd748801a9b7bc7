"""A step that asks a person, workers that tell them, and the command line for what did not get through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmteam.human import InteractionStatus
from llmteam.human.fleet import connect
from llmteam.human.links import LinkSigner
from llmteam.human.notifications import verify_webhook
from llmteam.ids import utc_now
from llmteam.settings import Settings
from tests.acceptance.command_line import DONE, USAGE, CommandLine
from tests.embedding import short_folder
from tests.mailbox import Mailbox, mail_server
from tests.services import PostgresService
from tests.unit.net.loopback import Loopback, serving
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

KEY = "a key of at least thirty-two characters"
BOB = "bob@example.com"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        running.routes["/hook"] = lambda handler: handler.answer(200)
        yield running


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with mail_server() as running:
        yield running


@pytest.fixture
def line(postgres: PostgresService, clean_valkey: str, server: Loopback, mailbox: Mailbox) -> Iterator[CommandLine]:
    with short_folder() as folder:
        yield CommandLine(
            folder,
            LLMTEAM_DATABASE_URL=postgres.create(),
            LLMTEAM_BROKER_URL=clean_valkey,
            LLMTEAM_SWEEP_SECONDS="0.5",
            LLMTEAM_PUBLIC_URL="https://inbox.example.com",
            LLMTEAM_WEB_KEYS=KEY,
            LLMTEAM_NOTIFY_WEBHOOK_URL=f"{server.url}/hook",
            LLMTEAM_NOTIFY_WEBHOOK_KEY=KEY,
            LLMTEAM_NOTIFY_ATTEMPTS="1",
            LLMTEAM_SMTP_URL=mailbox.url(),
        )
    postgres.drop_all()


def asking(line: CommandLine) -> Any:
    return line.segment("ask", ("human_task", {"task_type": "approval", "title": "Ship it?", "assignee_ref": BOB}))


def test_a_person_is_told_by_workers_and_their_answer_moves_the_run(
    line: CommandLine, server: Loopback, mailbox: Mailbox
) -> None:
    with (
        line.started("worker", "--concurrency", "2") as worker,
        line.started("beat") as beat,
        line.started("run", asking(line), "--input", "{}") as run,
    ):
        worker.wait_for("ready")
        beat.wait_for("ready")
        wait_until(lambda: server.received and mailbox.messages, "both receivers to be told", timeout=40)

        (received,) = server.received
        assert verify_webhook(KEY, received.headers["x-llmteam-signature"], received.body, utc_now())
        body = json.loads(received.body)
        token = body["respond_url"].removeprefix("https://inbox.example.com/answer/")
        link = LinkSigner([KEY.encode()]).read_link(token, utc_now())
        assert (link.person, link.request_id) == (BOB, body["request_id"])
        assert mailbox.messages[0]["Subject"] == "Your approval is needed: Ship it?"

        manager = connect(Settings.load(line.env), tenant_id=link.tenant_id)
        request = asyncio.run(manager.get_request(link.request_id))
        assert request is not None
        assert request.status in {InteractionStatus.PENDING, InteractionStatus.NOTIFIED}
        asyncio.run(
            manager.respond(
                link.request_id,
                link.person,
                approved=True,
                shown_hash=link.shown_hash,
                link=(link.link_id, link.expires_at),
            )
        )
        assert run.process.wait(40) == DONE, run.output()

    records = line.json("notifications", "list", "--state", "delivered")
    assert sorted(record["channel"] for record in records) == ["email", "webhook"]


def test_what_was_given_up_is_listed_and_tried_again_when_an_operator_says_so(
    line: CommandLine, server: Loopback, mailbox: Mailbox
) -> None:
    server.routes["/hook"] = lambda handler: handler.answer(500)

    # Without beat: workers look on their own.
    with (
        line.started("worker", "--concurrency", "2") as worker,
        line.started("run", asking(line), "--input", "{}"),
    ):
        worker.wait_for("ready")
        wait_until(lambda: line.json("notifications", "list", "--state", "dead"), "a dead notification", timeout=40)
        (dead,) = line.json("notifications", "list")
        assert (dead["channel"], dead["attempts"]) == ("webhook", 1)
        assert dead["last_error"] == f"{server.endpoint} answered HTTP 500"
        assert "answered HTTP 500" in line("notifications", "list").stdout
        assert "1 notification given up" in line("doctor").stdout

        server.routes["/hook"] = lambda handler: handler.answer(200)
        retried = line("notifications", "retry", dead["notification_id"], "nobody")
        assert (retried.returncode, retried.stdout) == (DONE, "1 will be delivered with the next sweep\n")
        assert "nobody is not among the dead ones" in retried.stderr
        wait_until(lambda: not line.json("notifications", "list"), "it to be delivered", timeout=40)

    assert [json.loads(one.body)["notification_id"] for one in server.received] == [dead["notification_id"]] * 2


def test_retry_wants_to_know_which(line: CommandLine) -> None:
    assert line("db", "upgrade").returncode == DONE

    neither, both = line("notifications", "retry"), line("notifications", "retry", "--all", "some")

    assert (neither.returncode, both.returncode) == (USAGE, USAGE)
    assert "or say --all" in neither.stderr
    assert line.json("notifications", "retry", "--all") == {"retried": [], "not_dead": []}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("LLMTEAM_SMTP_URL", "smtp://ada:s3cret@mail.example.com?from=a@b.c", "add starttls=1"),
        ("LLMTEAM_NOTIFY_SLACK_URL", "https://ada:s3cret@hooks.slack.com/", "user name or password"),
    ],
)
def test_a_worker_does_not_start_with_a_channel_that_cannot_work(
    line: CommandLine, name: str, value: str, problem: str
) -> None:
    assert line("db", "upgrade").returncode == DONE

    done = line("worker", "--pool", "threads", **{name: value})

    assert done.returncode == USAGE
    assert problem in done.stderr
    assert "s3cret" not in done.stderr
