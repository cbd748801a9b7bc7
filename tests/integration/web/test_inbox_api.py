"""The JSON API: what it gives, and what each bad request gets. A refusal is problem+json and changes nothing."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from llmteam.db import Database
from llmteam.human import HumanInteractionManager, InteractionRequest
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.web import Parts
from tests.site import KEY, Site, TestClock, site_of

FORM = {
    "type": "object",
    "required": ["amount"],
    "properties": {"amount": {"type": "number", "minimum": 10}, "note": {"type": "string"}},
}


def answer_to(request: InteractionRequest, **answer: Any) -> dict[str, Any]:
    return {"shown_hash": request.shown_hash, **answer}


def path(request: InteractionRequest, *more: str) -> str:
    return "/".join(["/requests", request.request_id, *more])


def problem(response: requests.Response, status: int) -> dict[str, Any]:
    """The document of a refusal, held against RFC 9457."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["type"] == "about:blank"
    assert document["title"]
    assert len(document["detail"].split()) > 2, "a sentence"
    return document


def test_a_list_has_what_the_person_is_asked_by_name_or_group_or_with_anybody(site: Site, ask) -> None:
    mine = ask("approval", "Mine")
    group = ask("approval", "Ours", assignee=None, assignee_group="finance")
    open_to_all = ask("approval", "Anybody's", assignee=None)
    ask("approval", "Bob's", assignee="bob")
    ask("approval", "Another tenant's", tenant="other")

    found = site.api("ann", "finance").get("/requests").json()["requests"]

    assert {one["request_id"] for one in found} == {mine.request_id, group.request_id, open_to_all.request_id}
    assert found[0]["shown_hash"] in {mine.shown_hash, group.shown_hash, open_to_all.shown_hash}


def test_only_operators_list_everybodys_requests(site: Site, ask) -> None:
    asked = ask("approval", "Bob's", assignee="bob")

    refused = site.api("ann").get("/requests?scope=all")
    found = site.api("olga", "operators").get("/requests?scope=all")

    assert "operators" in problem(refused, 403)["detail"]
    assert [one["request_id"] for one in found.json()["requests"]] == [asked.request_id]


def test_a_request_comes_with_its_hash_its_votes_and_whether_one_may_answer(site: Site, ask) -> None:
    asked = ask("approval", "Two of us", assignee=None, approvers=["ann", "bob"], quorum=2, context_data={"sum": 3})
    assert site.api("bob").post(path(asked, "response"), answer_to(asked, approved=True)).status_code == 200

    shown = site.api("ann").get(path(asked)).json()

    assert shown["request"]["context_data"] == {"sum": 3}
    assert shown["shown_hash"] == asked.shown_hash
    assert [vote["responder_id"] for vote in shown["votes"]] == ["bob"]
    assert shown["refusal"] is None
    assert shown["response"] is None
    assert site.api("bob").get(path(asked)).json()["refusal"] == "you have answered already, and others have yet to"


def test_an_answer_closes_the_request_with_the_name_of_the_token(site: Site, ask, state) -> None:
    asked = ask("approval", "Pay?")

    given = site.api().post(path(asked, "response"), answer_to(asked, approved=True, comment="fine"))

    assert given.status_code == 200
    case, _ = state(asked)
    assert case.request.status == "completed"
    assert (case.response.responder_id, case.response.approved, case.response.comment) == ("ann", True, "fine")
    assert given.json() == case.response.to_dict()


def test_a_chat_is_written_read_from_a_number_on_and_closed(site: Site, ask) -> None:
    asked, api = ask("chat", "Which account?"), site.api()

    sent = [api.post(path(asked, "messages"), {"text": text}) for text in ("4711", "or 4712")]
    read = api.get(path(asked, "messages") + "?after=1").json()["messages"]
    closed = api.post(path(asked, "close"), answer_to(asked, comment="4712 it is"))

    assert [(one.status_code, one.json()["seq"]) for one in sent] == [(201, 1), (201, 2)]
    assert [one["text"] for one in read] == ["or 4712"]
    assert closed.status_code == 200
    problem(api.post(path(asked, "messages"), {"text": "wait"}), 409)


def test_who_claims_or_delegates_is_written_down(site: Site, ask, state) -> None:
    asked, api = ask("approval", "Pay?"), site.api()

    claimed = api.post(path(asked, "claim")).json()
    delegated = api.post(path(asked, "delegate"), {"to": "bob"}).json()

    assert (claimed["claimed_by"], claimed["status"]) == ("ann", "in_progress")
    assert (delegated["assignee_id"], delegated["claimed_by"]) == ("bob", None)
    problem(api.post(path(asked, "response"), answer_to(asked, approved=True)), 403)
    assert site.api("bob").post(path(asked, "response"), answer_to(asked, approved=True)).status_code == 200


def test_operators_cancel_and_others_may_not(site: Site, ask, state) -> None:
    asked = ask("approval", "Pay?")
    before = state(asked)

    refused = site.api("ann").post(path(asked, "cancel"), {"reason": "no"})
    unchanged = state(asked)
    done = site.api("olga", "operators").post(path(asked, "cancel"), {"reason": "a test"})

    problem(refused, 403)
    assert unchanged == before
    assert done.json()["status"] == "cancelled"


def test_whoami_says_who_the_token_is_for(site: Site) -> None:
    assert site.api("ann", "b", "a").get("/me").json() == {
        "tenant_id": site.tenant,
        "person": "ann",
        "groups": ["a", "b"],
    }


def test_without_a_token_or_with_a_bad_one_nobody_is_known(site: Site, ask, state, clock: TestClock) -> None:
    asked, good = ask("approval", "Pay?"), site.token("ann")
    before = state(asked)
    body = answer_to(asked, approved=True)
    short = site.token("ann", hours=0.01)
    link = site.link(asked, "ann").rpartition("/")[2]
    clock.forward(minutes=5)
    headers: list[dict[str, str]] = [
        {},
        {"Authorization": "Basic YW5uOmFubg=="},
        {"Authorization": f"Bearer {good[:-1]}"},
        {"Authorization": f"Bearer {short}"},
        {"Authorization": f"Bearer {link}"},
        {"Cookie": f"llmteam-session={good}"},
    ]

    for given in headers:
        refused = requests.post(f"{site.url}/api{path(asked, 'response')}", json=body, headers=given, timeout=30)
        problem(refused, 401)
        assert refused.headers["www-authenticate"] == "Bearer"

    assert state(asked) == before


def test_another_tenants_request_looks_like_none(site: Site, ask, state) -> None:
    asked = ask("approval", "Pay?")
    before, stranger = state(asked), site.api("ann", "operators", tenant="strangers")
    none = stranger.get("/requests/none")

    refused = [
        stranger.get(path(asked)),
        stranger.get(path(asked, "messages")),
        stranger.post(path(asked, "response"), answer_to(asked, approved=True)),
        stranger.post(path(asked, "claim")),
        stranger.post(path(asked, "delegate"), {"to": "eve"}),
        stranger.post(path(asked, "messages"), {"text": "hi"}),
        stranger.post(path(asked, "close"), answer_to(asked)),
        stranger.post(path(asked, "cancel"), {}),
    ]

    expected = problem(none, 404)["detail"].replace("none", asked.request_id, 1)
    assert [problem(one, 404)["detail"] for one in refused] == [expected] * len(refused)
    assert state(asked) == before
    assert stranger.get("/requests?scope=all").json() == {"requests": []}


@pytest.mark.parametrize("request_id", ["none", "%00", "a%2Fb", "x" * 300, "%F0%9F%98%80", "..%2F..%2Fhealth"])
def test_an_id_that_is_none_is_not_found(site: Site, request_id: str) -> None:
    refused = site.api().get(f"/requests/{request_id}")

    problem(refused, 404)


def test_the_second_answer_is_refused_and_says_how_it_stands(site: Site, ask, state) -> None:
    asked, api = ask("approval", "Pay?"), site.api()
    assert api.post(path(asked, "response"), answer_to(asked, approved=True)).status_code == 200
    before = state(asked)

    refused = api.post(path(asked, "response"), answer_to(asked, approved=False))

    assert problem(refused, 409)["request_status"] == "completed"
    assert state(asked) == before


def test_of_many_answers_at_once_one_is_taken(site: Site, ask, state) -> None:
    asked, api = ask("approval", "Pay?"), site.api()

    with ThreadPoolExecutor(8) as pool:
        given = list(
            pool.map(
                lambda number: api.post(path(asked, "response"), answer_to(asked, approved=True, comment=str(number))),
                range(16),
            )
        )

    assert sorted(one.status_code for one in given) == [200] + [409] * 15
    (taken,) = (one.json() for one in given if one.status_code == 200)
    assert state(asked)[0].response.comment == taken["comment"]


def test_an_answer_after_the_deadline_is_refused_also_before_a_sweep_has_seen_it(
    site: Site, ask, state, clock: TestClock
) -> None:
    asked = ask("approval", "Pay?", timeout=600)
    before = state(asked)
    clock.forward(minutes=11)

    refused = site.api().post(path(asked, "response"), answer_to(asked, approved=True))

    assert problem(refused, 409)["request_status"] == "timeout"
    assert state(asked) == before


def test_somebody_else_may_not_look_answer_claim_or_hand_on(site: Site, ask, state) -> None:
    asked = ask("approval", "Pay?")
    before, eve = state(asked), site.api("eve")

    refused = [
        eve.get(path(asked)),
        eve.post(path(asked, "response"), answer_to(asked, approved=True)),
        eve.post(path(asked, "claim")),
        eve.post(path(asked, "delegate"), {"to": "eve"}),
        site.api("olga", "operators").post(path(asked, "response"), answer_to(asked, approved=True)),
    ]

    for one in refused:
        assert "somebody else was asked" in problem(one, 403)["detail"]
    assert state(asked) == before


def test_four_eyes_hold_here_too(site: Site, ask, state) -> None:
    asked = ask("approval", "Pay?", assignee=None, four_eyes=True, requester_id="ann")
    before = state(asked)

    refused = site.api("ann").post(path(asked, "response"), answer_to(asked, approved=True))

    problem(refused, 403)
    assert state(asked) == before
    assert site.api("bob").post(path(asked, "response"), answer_to(asked, approved=True)).status_code == 200


def test_an_answer_about_what_was_shown_before_is_refused(site: Site, ask, amend, state) -> None:
    asked = ask("approval", "Pay?", context_data={"amount": 10})
    amend(asked, context_data={"amount": 10_000})
    before = state(asked)

    refused = site.api().post(path(asked, "response"), answer_to(asked, approved=True))

    assert "changed since it was shown" in problem(refused, 409)["detail"]
    assert state(asked) == before


def test_input_that_misses_the_schema_is_refused_with_its_path_and_without_its_value(site: Site, ask, state) -> None:
    asked = ask("input", "How much?", "", FORM)
    before = state(asked)

    refused = site.api().post(path(asked, "response"), answer_to(asked, input_data={"amount": 3, "note": "s3cret"}))

    document = problem(refused, 422)
    assert document["errors"] == [{"path": "$.amount", "detail": "amount: must be at least 10"}]
    assert "s3cret" not in refused.text
    assert state(asked) == before


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"approved": True}, "$.shown_hash"),
        ({"shown_hash": "short", "approved": True}, "$.shown_hash"),
        ({"approved": "yes"}, "$.approved"),
        ({"approved": 1}, "$.approved"),
        ({"aproved": True}, "$.aproved"),
        ({"approved": True, "comment": 3}, "$.comment"),
        ({"approved": True, "comment": "a\x00b"}, "$.comment"),
        ({"approved": True, "comment": "\ud800"}, "$.comment"),
        ({"approved": True, "input_data": [1]}, "$.input_data"),
        ({"approved": True, "input_data": {"a": {"b": "\x00"}}}, "$.input_data"),
        ([1, 2], "$"),
        ("text", "$"),
        (None, "$"),
    ],
)
def test_a_bad_body_is_refused_with_a_sentence_that_names_the_place(site: Site, ask, state, body, where) -> None:
    asked = ask("approval", "Pay?")
    before = state(asked)
    if isinstance(body, dict) and where != "$.shown_hash":
        body = {**body, "shown_hash": asked.shown_hash}

    refused = site.api().post(path(asked, "response"), body)

    assert where in [error["path"] for error in problem(refused, 422)["errors"]]
    assert state(asked) == before


@pytest.mark.parametrize("text", ["{", "\xff\xfe", '{"approved": NaN}', "[" * 100_000, '{"a": 1e999}', ""])
def test_what_is_no_json_is_refused(site: Site, ask, state, text: str) -> None:
    asked = ask("approval", "Pay?")
    before = state(asked)

    refused = site.api().call(
        "POST", path(asked, "response"), data=text.encode("latin-1"), headers={"Content-Type": "application/json"}
    )

    problem(refused, 422)
    assert state(asked) == before


def test_an_infinite_number_is_refused(site: Site, ask, state) -> None:
    asked = ask("input", "How much?", "", {"type": "object"})
    before = state(asked)
    body = f'{{"shown_hash": "{asked.shown_hash}", "input_data": {{"amount": 1e999}}}}'

    refused = site.api().call("POST", path(asked, "response"), data=body, headers={"Content-Type": "application/json"})

    assert "$.input_data" in problem(refused, 422)["detail"]
    assert state(asked) == before


def test_a_comment_over_its_limit_is_too_large(site: Site, ask, state) -> None:
    asked = ask("approval", "Pay?")
    before = state(asked)

    refused = site.api().post(path(asked, "response"), answer_to(asked, approved=True, comment="x" * 16_385))

    assert "16,384" in problem(refused, 413)["detail"]
    assert state(asked) == before


def test_ten_megabytes_are_refused_before_they_are_read(site: Site, ask, state) -> None:
    asked = ask("approval", "Pay?")
    before = state(asked)
    where = urlsplit(site.url)
    head = (
        f"POST /api{path(asked, 'response')} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {site.token('ann')}\r\nContent-Length: 10000000\r\n\r\n"
    )

    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536).decode()

    assert answer.startswith("HTTP/1.1 413 ")
    assert "content-type: application/problem+json" in answer.lower()
    assert "content-security-policy" in answer.lower()
    assert state(asked) == before


def test_a_body_of_unknown_length_is_read_up_to_the_limit_only(site: Site, ask, state) -> None:
    asked = ask("approval", "Pay?")
    before = state(asked)
    where = urlsplit(site.url)
    head = (
        f"POST /api{path(asked, 'response')} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {site.token('ann')}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n%s\r\n" % (200_000, b"x" * 200_000)

    with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
        connection.sendall(head.encode() + chunk * 6)
        answer = connection.recv(65536).decode()

    assert answer.startswith("HTTP/1.1 413 ")
    assert "content-type: application/problem+json" in answer.lower()
    assert state(asked) == before


def test_what_fits_another_type_is_refused(site: Site, ask, state) -> None:
    choice = ask("choice", "Which?", "", [{"id": "a"}, {"id": "b"}])
    approval = ask("approval", "Pay?")
    before = state(choice), state(approval)
    api = site.api()

    refused = [
        api.post(path(choice, "response"), answer_to(choice, approved=True)),
        api.post(path(choice, "response"), answer_to(choice, selected_option="c")),
        api.post(path(approval, "response"), answer_to(approval)),
        api.post(path(approval, "messages"), {"text": "hi"}),
        api.post(path(approval, "close"), answer_to(approval, approved=True)),
        api.post(path(approval, "delegate"), {"to": "  "}),
        api.post(path(approval, "delegate"), {"to": "x" * 256}),
        api.get("/requests?limit=0"),
        api.get("/requests?scope=theirs"),
        api.get(path(approval, "messages") + "?after=-1"),
    ]

    for one in refused:
        problem(one, 422)
    assert (state(choice), state(approval)) == before


@pytest.mark.parametrize(
    ("method", "where", "status"), [("GET", "/nothing", 404), ("DELETE", "/requests", 405), ("PUT", "/me", 405)]
)
def test_addresses_and_methods_that_there_are_not(site: Site, method: str, where: str, status: int) -> None:
    problem(site.api().call(method, where), status)


def test_a_database_that_is_away_is_told_with_when_to_come_back(clock: TestClock) -> None:
    database = Database("postgresql://nobody:s3cret@127.0.0.1:9/none")
    manager = HumanInteractionManager(PostgresInteractionStore(database, clock=clock), clock=clock)

    with site_of(Parts(manager, [KEY], clock=clock)) as site:
        refused = site.api().get("/requests")

    database.close()
    assert "s3cret" not in refused.text
    assert "127.0.0.1" not in problem(refused, 503)["detail"]
    assert int(refused.headers["retry-after"]) > 0


def test_a_fault_of_ours_is_told_without_its_words(clock: TestClock) -> None:
    with site_of(Parts(None, [KEY], clock=clock)) as site:  # type: ignore[arg-type]
        refused = site.api().get("/requests")

    assert "NoneType" not in refused.text
    problem(refused, 500)
    assert "content-security-policy" in refused.headers
