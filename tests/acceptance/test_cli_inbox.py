"""``llmteam inbox serve|token``: a run that waits for a person goes on after an answer on the web."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.acceptance.command_line import DONE, UNREACHABLE, USAGE, CommandLine, Started
from tests.embedding import short_folder
from tests.following import Follower
from tests.services import PostgresService, redis_client
from tests.site import Api, Browser
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

KEY = "a key of the web inbox for tests of it"


@pytest.fixture(scope="module")
def llmteam(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with redis_client(valkey) as client:
        client.flushdb()
    yield CommandLine(
        tmp_path_factory.mktemp("inbox"),
        LLMTEAM_DATABASE_URL=postgres.create(),
        LLMTEAM_BROKER_URL=valkey,
        LLMTEAM_WEB_KEYS=KEY,
        LLMTEAM_SWEEP_SECONDS="1",
    )
    postgres.drop_all()


def address_of(inbox: Started) -> str:
    inbox.wait_for("ready: ")
    found = re.search(r"ready: (\S+)/ ", inbox.output())
    assert found is not None
    return found[1]


def test_a_run_waits_for_a_person_and_goes_on_after_the_answer_on_a_page(llmteam: CommandLine) -> None:
    asks = {"task_type": "approval", "title": "Pay {amount}?", "assignee_ref": "ann"}
    segment = llmteam.segment("payment", ("transform", {}), ("human_task", asks))
    token = llmteam("inbox", "token", "--user", "ann").stdout.strip()

    with (
        llmteam.started("worker", "--pool", "threads") as worker,
        llmteam.started("inbox", "serve", "--port", "0") as inbox,
    ):
        worker.wait_for("ready: ")
        browser = Browser(address_of(inbox))
        with llmteam.started("run", segment, "--input", '{"amount": 40}', "--run-id", "payment-1", "--json") as run:
            browser.open("/sign-in")
            browser.send({"token": token})
            wait_until(lambda: "Pay 40?" in browser.open("/").said, "the request in the inbox", timeout=30)
            (link,) = (a["href"] for _, a in browser.page.elements if a.get("href", "").startswith("/requests/"))
            browser.open(link)
            browser.send({"comment": "paid before"}, button="reject")
            assert browser.status == 200
            run.process.wait(30)
        shown = llmteam.json("runs", "show", "payment-1")
        inbox.process.send_signal(signal.SIGTERM)
        assert inbox.process.wait(20) == DONE

    assert shown["status"] == "completed"
    assert "paid before" in str(shown["steps"])


def test_a_token_lets_its_person_in_for_its_tenant_and_time(llmteam: CommandLine) -> None:
    made = llmteam(
        "inbox", "token", "--user", "Jürgen Groß", "--tenant", "acme", "--group", "finance", "--hours", "0.5"
    )
    token = made.stdout.strip()

    with llmteam.started("inbox", "serve", "--port", "0") as inbox:
        url = address_of(inbox)
        told = requests.get(f"{url}/api/me", headers={"Authorization": f"Bearer {token}"}, timeout=30).json()
        health = requests.get(f"{url}/health", timeout=30)

    assert told == {"tenant_id": "acme", "person": "Jürgen Groß", "groups": ["finance"]}
    assert health.json() == {"status": "ok"}
    assert "server" not in health.headers
    assert f"/sign-in?token={token}" in made.stderr
    assert token not in inbox.output()


def test_the_public_url_is_where_people_are_sent(llmteam: CommandLine) -> None:
    made = llmteam("inbox", "token", "--user", "ann", LLMTEAM_PUBLIC_URL="https://inbox.example.com/people")

    assert "sign in at https://inbox.example.com/people/sign-in?token=" in made.stderr


def test_serving_to_other_machines_without_https_is_warned_of(llmteam: CommandLine) -> None:
    with llmteam.started("inbox", "serve", "--host", "0.0.0.0", "--port", "0") as inbox:
        address_of(inbox)

    assert "unencrypted" in inbox.output()


def test_ctrl_c_ends_it(llmteam: CommandLine) -> None:
    with llmteam.started("inbox", "serve", "--port", "0") as inbox:
        address_of(inbox)
        inbox.process.send_signal(signal.SIGINT)

        assert inbox.process.wait(20) == DONE


def test_it_ends_although_somebody_follows_a_run(llmteam: CommandLine) -> None:
    segment = llmteam.segment("waiting", ("transform", {}))
    token = llmteam("inbox", "token", "--user", "olga", "--group", "operators").stdout.strip()
    with llmteam.started("inbox", "serve", "--port", "0") as inbox:
        api = Api(address_of(inbox), token)
        started = api.post("/runs", {"segment": json.loads(Path(segment).read_text()), "input": 1})
        with Follower(api, started.json()["run_id"]) as follower:
            follower.take(1)
            inbox.process.send_signal(signal.SIGTERM)

            assert list(follower) == [], "the stream ends as streams do, and is not cut off"
            assert inbox.process.wait(20) == DONE


@pytest.mark.parametrize("arguments", [("serve", "--port", "0"), ("token", "--user", "ann")])
def test_without_a_key_it_is_told_how_to_make_one(llmteam: CommandLine, arguments: tuple[str, ...]) -> None:
    refused = llmteam("inbox", *arguments, LLMTEAM_WEB_KEYS="")

    assert refused.returncode == USAGE
    assert "LLMTEAM_WEB_KEYS" in refused.stderr


def test_a_port_that_is_taken_is_told(llmteam: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = llmteam("inbox", "serve", "--port", str(taken.getsockname()[1]))

    assert refused.returncode == USAGE
    assert "choose others with --host and --port" in refused.stderr


def test_a_database_that_is_away_or_without_tables_is_told(llmteam: CommandLine, postgres: PostgresService) -> None:
    away = llmteam("inbox", "serve", "--port", "0", LLMTEAM_DATABASE_URL="postgresql://me@127.0.0.1:9/x")
    empty = llmteam("inbox", "serve", "--port", "0", LLMTEAM_DATABASE_URL=postgres.create(migrated=False))

    assert away.returncode == empty.returncode == UNREACHABLE
    assert "llmteam db upgrade" in empty.stderr


def test_an_embedded_home_has_its_own_key() -> None:
    with short_folder() as folder:
        alone = CommandLine(folder)
        with alone.started("inbox", "serve", "--port", "0") as inbox:
            url = address_of(inbox)
            token = alone("inbox", "token", "--user", "ann").stdout.strip()
            told = requests.get(f"{url}/api/me", headers={"Authorization": f"Bearer {token}"}, timeout=30)

    assert told.json()["person"] == "ann"
