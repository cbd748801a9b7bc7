"""Notifications reach their receivers at least once, whatever fails in between, and two sweeps at once deliver once."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from llmteam.db import Database
from llmteam.errors import InfrastructureError
from llmteam.human import rules
from llmteam.human.deliveries import Courier, Due, NotificationRecord
from llmteam.human.exceptions import AnswerLinkError
from llmteam.human.links import LinkSigner
from llmteam.human.models import InteractionRequest, InteractionResponse, InteractionStatus
from llmteam.human.notifications import BuiltinChannel, EmailNotificationChannel, Message, WebhookNotificationChannel
from llmteam.human.postgres import PostgresInteractions
from llmteam.human.postgres.deliveries import FAILED, PostgresDeliveries
from llmteam.human.respond_links import RespondLinks
from llmteam.human.rulings import Case
from llmteam.ids import new_id, utc_now
from llmteam.net import OutboundGuard, use_guard
from llmteam.ratelimit.decisions import Outcome
from llmteam.ratelimit.gate import Gate
from tests.conformance.turnstiles import Fuse, Turnstile, gate_of
from tests.mailbox import mail_server
from tests.scraping import counted
from tests.unit.human.messages import ADA, BOB, request
from tests.unit.net.loopback import Handler, Loopback, serving
from tests.waiting import wait_until

SIGNER = LinkSigner([b"k" * 32])
LINKS = RespondLinks("https://inbox.example.com", SIGNER)
STATES = ("pending", "delivered", "dead")


@pytest.fixture
def server() -> Iterator[Loopback]:
    use_guard(OutboundGuard())
    with serving() as running:
        running.routes["/s3cret"] = lambda handler: handler.answer(200)
        yield running
    use_guard(None)


class PostOffice:
    """Requests in Postgres, and couriers that deliver what is to be told of them to ``server``."""

    def __init__(self, database: Database, server: Loopback) -> None:
        self.database, self.server = database, server
        self.interactions = PostgresInteractions(database)
        self.deliveries = PostgresDeliveries(database)
        self.webhook = WebhookNotificationChannel(f"{server.url}/s3cret")

    def courier(
        self, attempts: int = 3, database: Database | None = None, gate: Gate | None = None, **channels: BuiltinChannel
    ) -> Courier:
        database = database or self.database
        return Courier(
            PostgresDeliveries(database),
            PostgresInteractions(database),
            channels or {"webhook": self.webhook},
            LINKS,
            attempts=attempts,
            gate=gate,
        )

    def ask(self, **fields: Any) -> InteractionRequest:
        asked = request(**{"request_id": new_id(), "run_id": "", "deadline": None, **fields})
        return self.interactions.create(rules.open_request(asked, utc_now()))

    def status(self, asked: InteractionRequest) -> InteractionStatus:
        return self.case(asked).request.status

    def case(self, asked: InteractionRequest) -> Case:
        case = self.interactions.case(asked.tenant_id, asked.request_id)
        assert case is not None
        return case

    def records(self, tenant: str = "acme") -> list[NotificationRecord]:
        return self.deliveries.records(tenant, STATES, 1000)

    def record(self) -> NotificationRecord:
        (one,) = self.records()
        return one

    def make_due(self) -> None:
        """As if the wait were over."""
        with self.database.hot("acme") as connection:
            connection.script("UPDATE llmteam.notifications SET wake_at = now() WHERE wake_at IS NOT NULL")

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(received.body) for received in self.server.received]


@pytest.fixture
def office(database: Database, server: Loopback) -> PostOffice:
    return PostOffice(database, server)


def refusing(status: int, **headers: str) -> Any:
    def answer(handler: Handler) -> None:
        handler.answer(status, b"s3cret words", **headers)

    return answer


def test_a_request_is_told_through_every_channel_and_is_notified(office: PostOffice) -> None:
    asked = office.ask(approvers=[BOB, "finance"], quorum=2)

    with mail_server() as mailbox:
        found = office.courier(webhook=office.webhook, email=EmailNotificationChannel(mailbox.url())).deliver_due()

    assert found == 1
    assert sorted(to for _, (to,) in mailbox.envelopes) == [ADA, BOB]
    (body,) = office.bodies()
    assert (body["request_id"], body["assignees"]) == (asked.request_id, [ADA, BOB, "finance"])
    assert office.status(asked) is InteractionStatus.NOTIFIED
    assert Counter((one.channel, one.state) for one in office.records()) == {
        ("webhook", "delivered"): 1,
        ("email", "delivered"): 2,
    }


def test_without_a_channel_nothing_is_left_and_the_request_stays_pending(office: PostOffice) -> None:
    asked = office.ask()

    courier = Courier(office.deliveries, office.interactions, {}, LINKS, attempts=3)

    assert courier.deliver_due() == 1
    assert office.records() == []
    assert office.status(asked) is InteractionStatus.PENDING
    assert courier.deliver_due() == 0


def test_a_receiver_that_was_down_gets_the_same_notification_when_it_is_up_again(office: PostOffice) -> None:
    asked = office.ask()
    office.server.routes["/s3cret"] = refusing(503)
    courier = office.courier()
    courier.deliver_due()
    down = office.record()
    assert (down.state, down.attempts, office.status(asked)) == ("pending", 1, InteractionStatus.PENDING)
    assert courier.deliver_due() == 0, "it is not due yet"

    office.server.routes["/s3cret"] = lambda handler: handler.answer(204)
    office.make_due()
    courier.deliver_due()

    up = office.record()
    assert (up.state, up.attempts, up.last_error) == ("delivered", 2, None)
    assert office.status(asked) is InteractionStatus.NOTIFIED
    assert [body["notification_id"] for body in office.bodies()] == [down.notification_id] * 2


def test_what_never_gets_through_is_dead_until_an_operator_retries_it(
    office: PostOffice, caplog: pytest.LogCaptureFixture
) -> None:
    asked = office.ask()
    office.server.routes["/s3cret"] = refusing(500)
    courier = office.courier(attempts=2)
    courier.deliver_due()
    office.make_due()
    with caplog.at_level(logging.ERROR):
        courier.deliver_due()

    dead = office.record()
    assert (dead.state, dead.attempts, dead.wake_at) == ("dead", 2, None)
    assert dead.last_error == f"{office.server.endpoint} answered HTTP 500"
    assert "attempt 2 of 2 failed" in caplog.text
    assert "s3cret" not in caplog.text

    office.server.routes["/s3cret"] = lambda handler: handler.answer(200)
    assert office.deliveries.retry("globex", None) == []
    assert office.deliveries.retry("acme", [dead.notification_id]) == [dead.notification_id]
    courier.deliver_due()
    assert (office.record().state, office.status(asked)) == ("delivered", InteractionStatus.NOTIFIED)
    assert office.deliveries.retry("acme", None) == [], "what was delivered is not sent again"


SWEEP = """
import sys
from llmteam.db import Database
from llmteam.human.deliveries import Courier
from llmteam.human.notifications import WebhookNotificationChannel
from llmteam.human.postgres import PostgresInteractions
from llmteam.human.postgres.deliveries import PostgresDeliveries
from llmteam.human.respond_links import RespondLinks

database = Database(sys.argv[1])
channels = {"webhook": WebhookNotificationChannel(sys.argv[2])}
Courier(
    PostgresDeliveries(database), PostgresInteractions(database), channels, RespondLinks(), attempts=3
).deliver_due()
"""


def test_a_process_that_dies_between_sending_and_writing_sends_again_under_the_same_id(
    office: PostOffice, database_url: str
) -> None:
    office.ask()
    running: list[subprocess.Popen[bytes]] = []
    started = threading.Event()

    def kill(handler: Handler) -> None:
        assert started.wait(30)
        os.kill(running[0].pid, signal.SIGKILL)
        running[0].wait()
        handler.answer(200)

    office.server.routes["/s3cret"] = kill
    running.append(subprocess.Popen([sys.executable, "-c", SWEEP, database_url, f"{office.server.url}/s3cret"]))
    started.set()
    assert running[0].wait(30) == -signal.SIGKILL
    left = office.record()
    assert (left.state, left.attempts) == ("pending", 1)
    assert left.wake_at is not None, "somebody looks again"

    office.server.routes["/s3cret"] = lambda handler: handler.answer(200)
    office.make_due()
    office.courier().deliver_due()

    assert office.record().state == "delivered"
    assert [body["notification_id"] for body in office.bodies()] == [left.notification_id] * 2


def test_attempts_that_are_cut_off_again_and_again_end_dead(office: PostOffice) -> None:
    class Broken(PostgresDeliveries):
        def delivered(self, delivery: Any) -> None:
            raise InfrastructureError("the database is away")

    office.ask()
    channels = {"webhook": office.webhook}
    courier = Courier(Broken(office.database), office.interactions, channels, LINKS, attempts=2)
    courier.deliver_due()
    office.make_due()
    courier.deliver_due()
    office.make_due()
    office.courier(attempts=2).deliver_due()

    assert (office.record().state, office.record().last_error) == ("dead", "every attempt was cut off")
    assert len(office.server.received) == 2


def test_two_sweeps_at_once_deliver_once(office: PostOffice, database_url: str) -> None:
    asked = [office.ask() for _ in range(40)]
    second = Database(database_url)
    couriers = [office.courier(), office.courier(database=second)]
    barrier = threading.Barrier(2)

    def sweep(courier: Courier) -> None:
        barrier.wait()
        while courier.deliver_due(8):
            pass

    threads = [threading.Thread(target=sweep, args=(courier,)) for courier in couriers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    second.close()

    told = Counter(body["request_id"] for body in office.bodies())
    assert told == Counter(one.request_id for one in asked)
    assert {one.state for one in office.records()} == {"delivered"}


def test_only_one_of_two_who_found_the_same_notification_begins_it(office: PostOffice) -> None:
    office.ask()
    (due,) = office.deliveries.take(10)

    first = office.deliveries.begin(due)
    second = office.deliveries.begin(due)

    assert first is not None
    assert second is None


def test_a_late_worker_cannot_overwrite_what_came_of_a_later_attempt(office: PostOffice) -> None:
    office.ask()
    (due,) = office.deliveries.take(10)
    first = office.deliveries.begin(due)
    assert first is not None
    second = office.deliveries.begin(replace(due, attempts=1))
    assert second is not None
    office.deliveries.delivered(second)

    office.deliveries.failed(first, "late", 1, 0.0)
    office.deliveries.drop(first)

    assert office.record().state == "delivered"


def test_one_look_at_a_time_in_a_process(office: PostOffice) -> None:
    office.ask()
    courier = office.courier()
    seen: list[int] = []

    def look(handler: Handler) -> None:
        seen.append(courier.deliver_due())
        handler.answer(200)

    office.server.routes["/s3cret"] = look

    courier.deliver_due()

    assert seen == [0]


def test_no_connection_is_held_while_something_is_sent(office: PostOffice) -> None:
    office.ask()
    held: list[int] = []

    def count(handler: Handler) -> None:
        held.append(office.database._engine.pool.checkedout())  # type: ignore[attr-defined]
        handler.answer(200)

    office.server.routes["/s3cret"] = count

    office.courier().deliver_due()

    assert held == [0]


def test_of_a_request_that_is_closed_nobody_is_told(office: PostOffice) -> None:
    cancelled, answered = office.ask(), office.ask()
    office.interactions.apply("acme", cancelled.request_id, lambda case: rules.cancel(case, utc_now()))
    response = InteractionResponse(request_id=answered.request_id, responder_id=ADA, approved=True)
    answer = rules.Answer(response)
    office.interactions.apply("acme", answered.request_id, lambda case: rules.respond(case, answer, utc_now()))

    office.courier().deliver_due()

    assert office.records() == []
    assert office.server.received == []


def test_of_one_that_timed_out_they_are(office: PostOffice) -> None:
    from llmteam.human.deadlines import tick

    late = office.ask(timeout=timedelta(seconds=1))
    office.interactions.apply("acme", late.request_id, lambda case: tick(case, utc_now() + timedelta(hours=1)))

    office.courier().deliver_due()

    (body,) = office.bodies()
    assert (body["kind"], body["status"]) == ("timed_out", "timeout")
    assert body["respond_urls"] == {}
    assert [one.kind for one in office.records()] == ["timed_out"]


def test_each_failure_doubles_the_wait_up_to_an_hour(office: PostOffice) -> None:
    office.ask()
    (due,) = office.deliveries.take(1)

    waits = []
    for attempts in range(12):
        with office.database.hot("acme") as connection:
            connection.script("UPDATE llmteam.notifications SET attempts = %s", (attempts,), begin=True)
            ident = ("acme", due.notification_id, attempts)
            connection.script(FAILED, (99, 99, 0.0, 99, "no", *ident))
            found = connection.script("SELECT extract(epoch FROM wake_at - now())::float8 FROM llmteam.notifications")
            assert found is not None
            waits.append(found[0][0])

    for failures, wait in enumerate(waits[1:]):
        longest = min(30 * 2**failures, 3600)
        assert longest / 2 <= wait <= longest


def test_a_receiver_that_says_when_to_come_back_is_left_alone_until_then(office: PostOffice) -> None:
    office.ask()
    office.server.routes["/s3cret"] = refusing(429, Retry_After="1800")

    office.courier().deliver_due()

    with office.database.hot("acme") as connection:
        statement = "SELECT wake_at > now() + interval '25 minutes' FROM llmteam.notifications"
        assert connection.script(statement) == [(True,)]


def test_every_tenants_notifications_are_delivered_as_theirs(office: PostOffice) -> None:
    office.ask(tenant_id="acme")
    office.ask(tenant_id="globex")

    office.courier().deliver_due()

    assert sorted(body["tenant_id"] for body in office.bodies()) == ["acme", "globex"]
    assert len(office.records("acme")) == len(office.records("globex")) == 1


def test_the_link_of_a_notification_answers_once(office: PostOffice) -> None:
    asked = office.ask()
    office.courier().deliver_due()
    (body,) = office.bodies()

    link = SIGNER.read_link(body["respond_url"].removeprefix("https://inbox.example.com/answer/"), utc_now())
    assert (link.tenant_id, link.request_id, link.person) == ("acme", asked.request_id, ADA)
    assert link.shown_hash == asked.shown_hash
    assert asked.deadline is not None
    assert link.expires_at == asked.deadline.replace(microsecond=0)

    response = InteractionResponse(request_id=asked.request_id, responder_id=link.person, approved=True)
    answer = rules.Answer(response, (), (link.link_id, link.expires_at))
    office.interactions.apply("acme", asked.request_id, lambda case: rules.respond(case, answer, utc_now()))
    other = office.ask()
    again = rules.Answer(response.model_copy(update={"request_id": other.request_id}), (), answer.link)
    with pytest.raises(AnswerLinkError, match="used before"):
        office.interactions.apply("acme", other.request_id, lambda case: rules.respond(case, again, utc_now()))


def test_a_channel_that_this_worker_does_not_have_is_left_to_others(office: PostOffice) -> None:
    office.ask()
    office.server.routes["/s3cret"] = refusing(503)
    office.courier().deliver_due()
    office.make_due()

    office.courier(slack=office.webhook).deliver_due()

    assert office.record().state == "pending"
    assert office.record().last_error == "the channel 'webhook' is not set up in this worker"


def test_a_channel_with_a_bug_is_an_attempt_that_failed(office: PostOffice, caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(BuiltinChannel):
        def deliver(self, message: Message) -> None:
            raise KeyError("s3cret")

    office.ask()

    with caplog.at_level(logging.CRITICAL):
        office.courier(buggy=Buggy()).deliver_due()

    assert (office.record().state, office.record().last_error) == ("pending", "unexpected KeyError")


def test_a_notification_of_a_request_that_is_gone_is_dropped(office: PostOffice) -> None:
    office.ask()
    (due,) = office.deliveries.take(1)
    with office.database.hot("acme") as connection:
        connection.script("UPDATE llmteam.notifications SET request_id = 'gone', wake_at = now()")

    assert office.courier().deliver_due() == 1

    assert office.records() == []
    assert office.deliveries.begin(Due("acme", due.notification_id, 1)) is None


def test_a_channel_under_a_limit_is_told_in_its_turn_and_no_attempt_is_used_up(office: PostOffice) -> None:
    office.ask()
    turnstile, fuse = Turnstile(seconds=0.0), Fuse()
    courier = office.courier(gate=gate_of(turnstile, fuse, "webhook"))

    courier.deliver_due()

    assert office.server.received == []
    assert [(one.state, one.attempts, one.last_error) for one in office.records()] == [("pending", 0, None)]

    turnstile.room = 1
    wait_until(courier.deliver_due, "the notification to be due again")

    assert [(one.state, one.attempts) for one in office.records()] == [("delivered", 1)]
    assert len(set(turnstile.asked)) == 1
    assert turnstile.released == turnstile.inside
    assert fuse.outcomes == [Outcome.SUCCESS]


def test_deliveries_count_by_their_channel_and_what_came_of_them(office: PostOffice) -> None:
    answers = iter([200, 500, 500])
    office.server.routes["/s3cret"] = lambda handler: handler.answer(next(answers))
    office.ask(assignee_id=ADA)
    office.ask(assignee_id=BOB)

    with counted() as told:
        for _ in range(2):
            office.courier(attempts=2).deliver_due()
            office.make_due()
        found = told()

    assert found.by("llmteam_notifications_total", "channel", "outcome") == {
        ("webhook", "delivered"): 1,
        ("webhook", "failed"): 1,
        ("webhook", "dead"): 1,
    }
    assert "s3cret" not in found.text
