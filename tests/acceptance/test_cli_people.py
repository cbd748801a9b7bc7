"""The inbox on the command line: who is asked what, what they answer, and what is refused in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from llmteam.canvas.handlers.human_task import ask_person
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.canvas.surgery import Surgery
from llmteam.db import Database
from llmteam.events.postgres import PostgresEventStore
from llmteam.ids import new_id
from llmteam.wakeup import MemoryWakeup
from tests.acceptance.command_line import DONE, FAILED, USAGE, CommandLine
from tests.conformance.desk import TENANT, Desk, new_run
from tests.drawing import draw
from tests.services import PostgresService, redis_client

pytestmark = pytest.mark.timeout(120)

IN_TENANT = ("--tenant", TENANT)
FORM = {"type": "object", "properties": {"amount": {"type": "integer", "maximum": 900}}, "required": ["amount"]}


@dataclass
class Office:
    """The command line, and a desk whose steps ask."""

    llmteam: CommandLine
    desk: Desk
    _numbers: Iterator[int]

    def asks(self, *, started_by: str = "", **config: Any) -> tuple[str, str]:
        """A run that asks; its id and that of its request."""
        run_id = f"run-{next(self._numbers)}"
        segment = draw("human_1.approved -> b", config={"human_1": config})
        assert self.desk.engine.submit(new_run(segment, run_id, input_text='{"amount": 700}', started_by=started_by))
        execution = self.desk.claim(run_id, "human_1")
        self.desk.engine.answered(execution, ask_person(execution.ctx, execution.config, execution.input))
        case = self.desk.store.interactions.case_of_step(TENANT, run_id, "human_1", 1)
        assert case is not None
        return run_id, case.request.request_id

    def shown(self, request_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.llmteam.json("inbox", "show", request_id, *IN_TENANT)
        return document

    def refused(self, code: int, *arguments: str) -> str:
        """What a command that is refused says."""
        done = self.llmteam("inbox", *arguments, *IN_TENANT)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture(scope="module")
def office(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """No worker: nothing goes on with what is answered."""
    with redis_client(valkey) as client:
        client.flushdb()
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    url = own.create()
    line = CommandLine(tmp_path_factory.mktemp("inbox"), LLMTEAM_DATABASE_URL=url, LLMTEAM_BROKER_URL=valkey)
    with closing(Database(url)) as database:
        yield Office(line, Desk(PostgresRunStore(database), PostgresEventStore(database)), count())
    own.drop_all()


def test_the_list_shows_who_is_asked_what_until_when_and_for_one_person_what_is_theirs(office: Office) -> None:
    _, anns = office.asks(title="Pay {amount}?")
    _, bobs = office.asks(title="Ship it?", assignee_ref="bob", timeout_hours=1)
    _, theirs = office.asks(title="Which way?", assignee_ref="cy", assignee_group="finance")

    told = office.llmteam("inbox", "list", *IN_TENANT)
    every = [one["request_id"] for one in office.llmteam.json("inbox", "list", *IN_TENANT)]
    bob = [one["request_id"] for one in office.llmteam.json("inbox", "list", "--as", "bob", *IN_TENANT)]
    finance = office.llmteam.json("inbox", "list", "--as", "bob", "--group", "finance", *IN_TENANT)

    assert told.returncode == DONE
    line = next(line for line in told.stdout.splitlines() if anns in line)
    assert re.search(r"approval +pending +ann +\d{4}-\d\d-\d\d [\d:]{8}Z +human_1 +Pay 700\?", line)
    assert every.index(bobs) < every.index(anns), "whose time is over first stands on top"
    assert bob == [bobs]
    assert {one["request_id"] for one in finance} == {bobs, theirs}
    nobody = office.llmteam("inbox", "list", "--as", "nobody", *IN_TENANT)
    assert "nothing waits for nobody in tenant acme" in nobody.stdout + nobody.stderr


def test_another_tenants_request_is_not_there(office: Office) -> None:
    _, request = office.asks()

    done = office.llmteam("inbox", "show", request)

    assert done.returncode == USAGE
    assert f"request '{request}' not found" in done.stderr


def test_a_request_is_shown_with_all_that_is_needed_to_decide(office: Office) -> None:
    run_id, request = office.asks(
        title="Pay {amount}?",
        description="It is an invoice.",
        approvers=["bob", "cy"],
        quorum=2,
        escalation_chain=["boss"],
        four_eyes=True,
        started_by="dan",
    )

    done = office.llmteam("inbox", "show", request, *IN_TENANT)

    assert done.returncode == DONE
    for line in (
        r"title +Pay 700\?",
        r"asked +ann, bob, cy",
        r"quorum +0 of 2 have approved",
        r"not +dan, who started the run",
        r"until +.*Z, then it is escalated to boss",
        rf"run +{run_id}",
        r"hash +[0-9a-f]{64}",
        r"It is an invoice\.",
        r'  "amount": 700',
        rf"answer: llmteam inbox respond {request} --as YOU --approve\|--reject --tenant acme",
    ):
        assert re.search(f"^{line}$", done.stdout, re.MULTILINE), (line, done.stdout)


def test_an_answer_needs_a_name_and_says_that_the_run_goes_on(office: Office) -> None:
    run_id, request = office.asks()

    assert "--as" in office.refused(USAGE, "respond", request, "--approve")
    hash_ = office.shown(request)["shown_hash"]
    done = office.llmteam(
        "inbox", "respond", request, "--as", "ann", "--approve", "--comment", "fine", "--shown", hash_, *IN_TENANT
    )

    assert (done.returncode, done.stdout) == (DONE, f"request {request} is completed; run {run_id} goes on\n")
    document = office.shown(request)
    assert (document["status"], document["response"]["comment"]) == ("completed", "fine")
    assert "it was answered already" in office.refused(FAILED, "respond", request, "--as", "ann", "--reject")
    explained = office.llmteam("explain", run_id, *IN_TENANT)
    assert "That is over: approved by ann: fine." in explained.stdout


def test_what_may_not_be_or_does_not_fit_is_refused_in_words(office: Office) -> None:
    _, request = office.asks()
    _, form = office.asks(task_type="input", input_schema=FORM)
    _, choice = office.asks(task_type="choice", choices=["now", "later"])

    assert "somebody else was asked" in office.refused(FAILED, "respond", request, "--as", "eve", "--approve")
    assert "has changed" in office.refused(FAILED, "respond", request, "--as", "ann", "--approve", "--shown", "0" * 64)
    assert "--approve|--reject" in office.refused(USAGE, "respond", request, "--as", "ann")
    assert "--choose 0|1" in office.refused(USAGE, "respond", choice, "--as", "ann")
    assert "was not offered" in office.refused(USAGE, "respond", choice, "--as", "ann", "--choose", "never")
    assert "at most 900" in office.refused(USAGE, "respond", form, "--as", "ann", "--input", '{"amount": 901}')
    assert "an object is needed" in office.refused(USAGE, "respond", form, "--as", "ann", "--input", "[1]")
    assert "--changes: line 1" in office.refused(USAGE, "respond", form, "--as", "ann", "--changes", "{")
    assert "not found" in office.refused(USAGE, "show", new_id())
    assert "the name is empty" in office.refused(USAGE, "claim", request, "--as", " ")
    assert {office.shown(one)["status"] for one in (request, form, choice)} == {"pending"}


def test_choices_forms_and_reviews_are_answered(office: Office) -> None:
    _, choice = office.asks(task_type="choice", choices=["now", "later"])
    _, form = office.asks(task_type="input", input_schema=FORM)
    _, review = office.asks(task_type="review")
    given = office.llmteam.folder / "form.json"
    given.write_text(json.dumps({"amount": 5}))

    office.llmteam.json("inbox", "respond", choice, "--as", "ann", "--choose", "later", *IN_TENANT)
    office.llmteam.json("inbox", "respond", form, "--as", "ann", "--input", f"@{given}", *IN_TENANT)
    changed = office.llmteam.json(
        "inbox", "respond", review, "--as", "ann", "--changes", '{"amount": 6}', "--comment", "less", *IN_TENANT
    )

    assert office.shown(choice)["response"]["selected_option"] == "later"
    assert office.shown(form)["response"]["input_data"] == {"amount": 5}
    assert (changed["review_changes"], changed["status"]) == ({"amount": 6}, "completed")


def test_a_vote_that_is_not_the_last_says_how_many_are_missing(office: Office) -> None:
    run_id, request = office.asks(approvers=["bob"], quorum=2)

    first = office.llmteam("inbox", "respond", request, "--as", "bob", "--approve", *IN_TENANT)
    shown = office.llmteam("inbox", "show", request, *IN_TENANT).stdout
    explained = office.llmteam("explain", run_id, *IN_TENANT).stdout
    second = office.llmteam("inbox", "respond", request, "--as", "ann", "--approve", *IN_TENANT)

    assert first.stdout == f"request {request}: your vote counts; 1 of 2 have approved\n"
    assert "bob approved" in shown
    assert "1 of 2 have approved." in explained
    assert second.stdout == f"request {request} is completed; run {run_id} goes on\n"


def test_requests_are_claimed_handed_on_reassigned_and_cancelled(office: Office) -> None:
    _, request = office.asks()

    claimed = office.llmteam.json("inbox", "claim", request, "--as", "ann", *IN_TENANT)
    assert (claimed["claimed_by"], claimed["status"]) == ("ann", "in_progress")
    delegated = office.llmteam.json("inbox", "delegate", request, "--as", "ann", "--to", "bob", *IN_TENANT)
    assert (delegated["assignee_id"], delegated["claimed_by"]) == ("bob", None)
    refused = office.refused(FAILED, "delegate", request, "--as", "ann", "--to", "cy")
    assert "somebody else was asked" in refused
    done = office.llmteam("inbox", "reassign", request, "--as", "ops", "--to", "cy", *IN_TENANT)
    assert done.stdout == f"request {request} is now for cy\n"
    cancelled = office.llmteam.json("inbox", "cancel", request, "--as", "ops", "--reason", "moot", *IN_TENANT)
    assert cancelled["status"] == "cancelled"
    assert "it was cancelled" in office.refused(FAILED, "claim", request, "--as", "cy")


def test_a_chat_is_read_written_and_ended(office: Office) -> None:
    _, request = office.asks(task_type="chat")

    for text in ("Which order?", "A-17\x1b[2J"):
        said = office.llmteam.json("inbox", "say", request, text, "--as", "ann", *IN_TENANT)
    rows = office.llmteam("inbox", "messages", request, *IN_TENANT)
    later = office.llmteam.json("inbox", "messages", request, "--after", "1", *IN_TENANT)
    ended = office.llmteam("inbox", "respond", request, "--as", "ann", *IN_TENANT)

    assert said["seq"] == 2
    assert "Which order?" in rows.stdout
    assert "\x1b" not in rows.stdout
    assert [one["seq"] for one in later] == [2]
    assert ended.returncode == DONE
    assert office.shown(request)["status"] == "completed"


def test_the_beginning_of_an_id_is_enough_when_only_one_has_it(office: Office) -> None:
    _, request = office.asks()
    short = request[:-2]
    others = [one["request_id"] for one in office.llmteam.json("inbox", "list", *IN_TENANT)]
    assert sum(one.startswith(short) for one in others) == 1

    assert office.shown(short)["request_id"] == request
    assert "more than one request" in office.refused(USAGE, "show", request[:4])


def test_runs_show_and_explain_say_what_a_run_waits_for(office: Office) -> None:
    run_id, request = office.asks(title="Pay {amount}?")

    (step, _) = office.llmteam.json("runs", "show", run_id, *IN_TENANT)["steps"]
    shown = office.llmteam("runs", "show", run_id, *IN_TENANT).stdout
    (group, _) = office.llmteam.json("explain", run_id, *IN_TENANT)["steps"]
    explained = office.llmteam("explain", run_id, *IN_TENANT).stdout

    assert (step["waits_for"], step["request_id"]) == ("person", request)
    assert re.search(rf"approval of ann until .*: Pay 700\? \({request}\)", shown)
    assert (group["waits_for"], group["requests"]) == ("person", [request])
    assert "Waiting for ann since" in explained
    assert "then the step fails with HumanTaskTimeoutError." in explained
    assert f"`llmteam inbox respond {request} --as ann --approve|--reject --tenant acme`" in explained
    listed = office.llmteam.json("inbox", "list", "--run", run_id, *IN_TENANT)
    assert [one["request_id"] for one in listed] == [request]


def test_a_paused_run_says_that_an_answer_is_kept(office: Office) -> None:
    run_id, request = office.asks()
    assert Surgery(office.desk.engine, MemoryWakeup()).pause(TENANT, run_id, grace=0.0) is not None

    shown = office.llmteam("inbox", "show", request, *IN_TENANT).stdout
    explained = office.llmteam("explain", run_id, *IN_TENANT).stdout
    done = office.llmteam("inbox", "respond", request, "--as", "ann", "--approve", *IN_TENANT)

    assert re.search(r"^stands still +\d{4}", shown, re.MULTILINE)
    assert "It asks ann, whose time stands still too" in explained
    assert f"run {run_id} is paused, and takes it up when it goes on" in done.stdout
