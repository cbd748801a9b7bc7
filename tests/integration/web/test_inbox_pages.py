"""The pages, as somebody without scripts uses them. Every refusal is a page, and changes nothing."""

from __future__ import annotations

import json

import pytest
import requests

from llmteam.human import InteractionRequest
from tests.site import Browser, Page, Site, TestClock

FORM = {
    "type": "object",
    "required": ["amount", "who"],
    "properties": {
        "amount": {"type": "number", "minimum": 10, "title": "Amount", "description": "In euros."},
        "who": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": 40}}},
        "urgent": {"type": "boolean"},
        "currency": {"enum": ["EUR", "USD"]},
        "due": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "rest": {},
    },
}


def address(request: InteractionRequest, *more: str) -> str:
    return "/".join(["/requests", request.request_id, *more])


def of_type(page: Page, kind: str) -> list[dict[str, str]]:
    return [attributes for _, attributes in page.elements if attributes.get("type") == kind]


# -- signing in


def test_a_token_is_pasted_and_the_list_appears(site: Site, ask) -> None:
    ask("approval", "Pay the invoice?")
    browser = site.browser()

    browser.open("/sign-in")
    browser.send({"token": f"  {site.token('ann')}\n"})

    assert browser.status == 200
    assert "Pay the invoice?" in browser.page.said
    assert f"ann · {site.tenant}" in browser.page.said


def test_a_link_to_sign_in_needs_one_button_and_looking_at_it_signs_nobody_in(site: Site) -> None:
    browser = site.browser()

    browser.open(f"/sign-in?token={site.token('ann')}")
    signed_in = "llmteam-session" in browser.session.cookies
    browser.send({})

    assert not signed_in
    assert browser.status == 200
    assert "Nothing waits for you" in browser.page.said


def test_a_page_that_needs_to_know_who_asks_leads_there_after_signing_in(site: Site, ask) -> None:
    asked, browser = ask("approval", "Pay?"), site.browser()

    browser.open(address(asked))
    refused = browser.status
    browser.send({"token": site.token("ann")})

    assert refused == 401
    assert browser.response.url.endswith(address(asked))
    assert browser.status == 200


@pytest.mark.parametrize("place", ["https://evil.example/", "//evil.example", "/requests/a//b", "/\\evil.example", "x"])
def test_signing_in_leads_nowhere_else(site: Site, place: str) -> None:
    browser = site.browser()

    browser.open("/sign-in")
    browser.send({"token": site.token("ann"), "next": place})

    assert browser.response.url == f"{site.url}/"


def test_a_wrong_or_old_token_is_told_and_the_session_ends_with_its_token(site: Site, clock: TestClock) -> None:
    browser, signed_in = site.browser(), site.signed_in()
    old = site.token("ann", hours=0.5)
    clock.forward(hours=2)

    browser.open("/sign-in")
    wrong = browser.send({"token": "nonsense"}), browser.status
    expired = browser.send({"token": old}), browser.status
    signed_in.open("/")

    assert wrong[1] == expired[1] == signed_in.status == 401
    assert "not one of ours" in wrong[0].said
    assert "expired" in expired[0].said
    assert "expired" in signed_in.page.said


def test_signing_out_ends_the_session(site: Site) -> None:
    browser = site.signed_in()

    browser.send({}, form="/sign-out")
    browser.open("/")

    assert browser.status == 401


def test_a_token_that_no_cookie_can_hold_is_told(site: Site) -> None:
    browser = site.browser()

    browser.open("/sign-in")
    browser.send({"token": site.token("ann", *(f"group-number-{number}" for number in range(300)))})

    assert browser.status == 422
    assert "fewer" in browser.page.said


def test_cookies_are_kept_from_scripts_and_other_sites(site: Site) -> None:
    browser = site.browser()
    browser.open("/sign-in")
    fields = {**browser.page.forms[0].values(), "token": site.token("ann")}

    sent = browser.session.post(f"{site.url}/sign-in", data=fields, allow_redirects=False, timeout=30)

    cookie = sent.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/" in cookie


# -- the list and the page of a request


def test_only_operators_see_everybodys_requests(site: Site, ask) -> None:
    asked = ask("approval", "Bob's", assignee="bob")
    ann, olga = site.signed_in("ann"), site.signed_in("olga", "operators")

    ann.open("/?scope=all")
    refused = ann.status
    olga.open("/?scope=all")

    assert refused == 403
    assert "Bob's" in olga.page.said
    assert address(asked) in olga.text


def test_what_is_asked_is_laid_out_and_no_markup_of_it_is_taken(site: Site, ask) -> None:
    hostile = "<script>alert(1)</script>"
    asked = ask(
        "approval",
        hostile,
        f"{hostile}\nsecond line",
        context_data={
            hostile: hostile,
            "order": {"id": 7, "paid": False, "note": None},
            "lines": [{"item": "a", "price": 1}, {"item": "b", "price": 2}],
            "tags": ["x", "y"],
            "long": "word " * 500,
        },
    )
    browser = site.signed_in()

    page = browser.open(address(asked))

    assert "<script" not in browser.text
    assert page.said.count(hostile) >= 4
    tags = [tag for tag, _ in page.elements]
    assert {"dl", "table", "ul", "details"} <= set(tags)
    assert "paid no" in page.said
    assert "note nothing" in page.said


def test_somebody_else_sees_a_page_that_refuses(site: Site, ask) -> None:
    asked, browser = ask("approval", "Pay?"), site.signed_in("eve")

    browser.open(address(asked))

    assert browser.status == 403
    assert "somebody else was asked" in browser.page.said
    assert "Pay?" not in browser.page.said


def test_another_tenants_request_and_none_look_alike(site: Site, ask) -> None:
    asked, browser = ask("approval", "Pay?"), site.signed_in("ann", "operators", tenant="other")

    theirs = browser.open(address(asked)).said, browser.status
    none = browser.open("/requests/none").said, browser.status

    assert theirs[1] == none[1] == 404
    assert theirs[0].replace(asked.request_id, "none") == none[0]


# -- answering


@pytest.mark.parametrize(
    ("button", "status", "approved"), [("approve", "completed", True), ("reject", "rejected", False)]
)
def test_an_approval_is_given_or_refused(site: Site, ask, state, button: str, status: str, approved: bool) -> None:
    asked, browser = ask("approval", "Pay?"), site.signed_in()

    browser.open(address(asked))
    page = browser.send({"comment": "line one\r\nline two"}, button=button)

    case, _ = state(asked)
    assert browser.status == 200
    assert browser.response.history[0].status_code == 303
    assert (case.request.status, case.response.approved) == (status, approved)
    assert case.response.comment == "line one\nline two"
    assert "by ann on 2026-01-02" in page.said
    assert not any(form.attributes["action"].endswith("/answer") for form in page.forms)


def test_an_option_is_chosen(site: Site, ask, state) -> None:
    asked = ask("choice", "Which?", "", [{"id": "a", "label": "Alpha"}, {"value": 2, "label": "Beta"}, {"label": "C"}])
    browser = site.signed_in()

    browser.open(address(asked))
    radios = of_type(browser.page, "radio")
    browser.send({"choice": "2"}, button="send")

    assert [radio["value"] for radio in radios] == ["a", "2", "C"]
    assert state(asked)[0].response.selected_option == "2"


def test_no_option_chosen_is_told_beside_the_options(site: Site, ask, state) -> None:
    asked, browser = ask("choice", "Which?", "", [{"id": "a"}, {"id": "b"}]), site.signed_in()
    before = state(asked)

    browser.open(address(asked))
    page = browser.send({"comment": "hm"}, button="send")

    assert browser.status == 422
    assert "choice-problem" in page.ids
    assert "hm" in browser.text
    assert state(asked) == before


def test_a_form_is_filled_in(site: Site, ask, state) -> None:
    asked, browser = ask("input", "How much?", "", FORM), site.signed_in()

    browser.open(address(asked))
    browser.send(
        {
            "f/amount": "12.5",
            "f/who/name": "Jürgen",
            "f/urgent": "true",
            "f/currency": '"EUR"',
            "f/due": "2026-02-01",
            "f/tags": "a\r\n\r\n b ",
            "f/rest": '{"x": [1]}',
        },
        button="send",
    )

    assert browser.status == 200, browser.page.said
    assert state(asked)[0].response.input_data == {
        "amount": 12.5,
        "who": {"name": "Jürgen"},
        "urgent": True,
        "currency": "EUR",
        "due": "2026-02-01",
        "tags": ["a", "b"],
        "rest": {"x": [1]},
    }


def test_what_misses_the_schema_is_told_beside_its_field_and_what_was_entered_is_kept(site: Site, ask, state) -> None:
    asked, browser = ask("input", "How much?", "", FORM), site.signed_in()
    before = state(asked)
    entered = {"f/amount": "three", "f/tags": "a", "f/urgent": "true", "f/rest": "{", "comment": "see mail"}

    browser.open(address(asked))
    page = browser.send(entered, button="send")

    assert browser.status == 422
    assert state(asked) == before
    (form,) = (one for one in page.forms if one.attributes["action"].endswith("/answer"))
    assert {name: form.values()[name] for name in entered} == entered
    said = {c.attributes["name"]: c.attributes for c in form.controls if "aria-invalid" in c.attributes}
    assert set(said) == {"f/amount", "f/who/name", "f/rest"}
    for attributes in said.values():
        assert attributes["aria-describedby"].split()[-1] in page.ids
    assert "Amount: must be of type number" in page.said
    assert "name: is missing" in page.said
    (alert,) = (attributes for _, attributes in page.elements if attributes.get("role") == "alert")
    assert alert
    links = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a" and "#f" in attributes["href"]}
    assert links == {attributes["id"] for attributes in said.values()}


def test_a_form_is_refused_without_being_filled_in(site: Site, ask, state) -> None:
    asked, browser = ask("input", "How much?", "", FORM), site.signed_in()

    browser.open(address(asked))
    browser.send({"comment": "ask Bob"}, button="reject")

    response = state(asked)[0].response
    assert (response.approved, response.reason) == (False, "ask Bob")


def test_a_review_comes_back_with_changes(site: Site, ask, state) -> None:
    draft = {"text": "Dear Sir,\nno.", "tone": {"warm": False, "words": ["sorry"]}, "version": 3, "empty": ""}
    asked, browser = ask("review", "Look at it", "", draft), site.signed_in()

    browser.open(address(asked))
    browser.send({"f/text": "Dear Sir,\r\nyes.", "f/tone/warm": "true"}, button="change")

    response = state(asked)[0].response
    assert response.approved is None
    assert response.review_changes == {**draft, "text": "Dear Sir,\nyes.", "tone": {"warm": True, "words": ["sorry"]}}


def test_changes_that_change_nothing_are_no_review(site: Site, ask, state) -> None:
    asked, browser = ask("review", "Look at it", "", {"text": "a"}), site.signed_in()
    before = state(asked)

    browser.open(address(asked))
    page = browser.send({}, button="change")

    assert browser.status == 422
    assert "say what should change" in page.said
    assert state(asked) == before


def test_a_chat_goes_to_and_fro_until_it_is_closed(site: Site, ask, state) -> None:
    asked, browser = ask("chat", "Which account?"), site.signed_in()

    browser.open(address(asked))
    browser.send({"text": "4711\r\nor 4712"}, form="/messages")
    page = browser.send({"comment": "4712"}, button="close")

    case, messages = state(asked)
    assert [message.text for message in messages] == ["4711\nor 4712"]
    assert "or 4712" in page.said
    assert case.request.status == "completed"


def test_an_empty_message_is_refused(site: Site, ask, state) -> None:
    asked, browser = ask("chat", "Which account?"), site.signed_in()
    before = state(asked)

    browser.open(address(asked))
    page = browser.send({"text": "  "}, form="/messages")

    assert browser.status == 422
    assert "the message is empty" in page.said
    assert state(asked) == before


def test_it_is_taken_and_handed_on(site: Site, ask, state) -> None:
    asked, browser = ask("approval", "Pay?"), site.signed_in()

    browser.open(address(asked))
    browser.send({}, form="/claim")
    taken = state(asked)[0].request.claimed_by
    empty = browser.send({"to": "  "}, form="/delegate"), browser.status
    browser.send({"to": "bob"}, form="/delegate")

    assert taken == "ann"
    assert empty[1] == 422
    assert "to-problem" in empty[0].ids
    assert state(asked)[0].request.assignee_id == "bob"
    assert "Nothing waits for you" in browser.page.said


def test_operators_cancel(site: Site, ask, state) -> None:
    asked, browser = ask("approval", "Pay?"), site.signed_in("olga", "operators")

    browser.open(address(asked))
    page = browser.send({"reason": "a test"}, form="/cancel")

    assert state(asked)[0].request.status == "cancelled"
    assert "It was cancelled" in page.said


# -- refusals


def test_the_second_answer_gets_a_page_that_says_how_it_ended(site: Site, ask, state) -> None:
    asked, browser, other = ask("approval", "Pay?", assignee=None), site.signed_in(), site.signed_in("bob")
    browser.open(address(asked))
    other.open(address(asked))
    other.send({"comment": "done"}, button="approve")
    before = state(asked)

    page = browser.send({}, button="reject")

    assert browser.status == 409
    assert "It was answered by bob" in page.said
    assert state(asked) == before


def test_an_answer_after_the_deadline_gets_a_page_that_says_so(site: Site, ask, state, clock: TestClock) -> None:
    asked, browser = ask("approval", "Pay?", timeout=600), site.signed_in()
    before = state(asked)
    browser.open(address(asked))
    clock.forward(minutes=11)

    page = browser.send({}, button="approve")

    assert browser.status == 409
    assert "The time for it is over" in page.said
    assert state(asked) == before


def test_what_changed_meanwhile_is_shown_anew_and_can_then_be_answered(site: Site, ask, amend, state) -> None:
    asked, browser = ask("approval", "Pay?", context_data={"amount": "ten"}), site.signed_in()
    browser.open(address(asked))
    amend(asked, context_data={"amount": "ten thousand"})
    before = state(asked)

    page = browser.send({"comment": "ok"}, button="approve")
    refused, unchanged = browser.status, state(asked)
    browser.send({}, button="reject")

    assert refused == 409
    assert unchanged == before
    assert "ten thousand" in page.said
    assert "It has changed since you opened it" in page.said
    assert state(asked)[0].request.status == "rejected"
    assert state(asked)[0].response.comment == "ok"


def test_a_form_with_faults_that_changed_meanwhile_is_shown_anew(site: Site, ask, amend, state) -> None:
    asked, browser = ask("input", "How much?", "", FORM), site.signed_in()
    browser.open(address(asked))
    amend(asked, title="How much at most?")
    before = state(asked)

    page = browser.send({}, button="send")

    assert browser.status == 409
    assert "How much at most?" in page.said
    assert state(asked) == before


def test_a_comment_over_its_limit_is_told_and_kept(site: Site, ask, state) -> None:
    asked, browser = ask("approval", "Pay?"), site.signed_in()
    before = state(asked)
    browser.open(address(asked))

    page = browser.send({"comment": "x" * 17_000}, button="approve")

    assert browser.status == 413
    assert "17,000 bytes" in page.said
    assert "x" * 17_000 in browser.text
    assert state(asked) == before


def test_a_form_of_ten_megabytes_gets_a_page(site: Site, ask, state) -> None:
    asked, browser = ask("approval", "Pay?"), site.signed_in()
    before = state(asked)
    browser.open(address(asked))

    page = browser.send({"comment": "x" * 10_000_000}, button="approve")

    assert browser.status == 413
    assert "1,000,000 bytes" in page.said
    assert state(asked) == before


@pytest.mark.parametrize("what", ["answer", "claim", "delegate", "cancel", "messages"])
@pytest.mark.parametrize("token", ["missing", "wrong", "another session's"])
def test_a_form_from_elsewhere_does_nothing(site: Site, ask, state, what: str, token: str) -> None:
    asked = ask("chat", "Pay?")
    browser, other = site.signed_in("ann", "operators"), site.signed_in("ann")
    before = state(asked)
    theirs = other.open(address(asked)).forms[0].values()["form_token"]
    fields = {"decision": "approve", "shown_hash": asked.shown_hash, "to": "eve", "text": "hi", "comment": "x"}
    fields |= {"missing": {}, "wrong": {"form_token": "0" * 64}, "another session's": {"form_token": theirs}}[token]

    page = browser.post(address(asked, what), fields)

    assert browser.status == 403
    assert "not sent from a page of your session" in page.said
    assert state(asked) == before


def test_signing_in_and_out_need_a_form_of_ours_too(site: Site) -> None:
    browser, signed_in = site.browser(), site.signed_in()

    browser.post("/sign-in", {"token": site.token("eve")})
    signed_in.post("/sign-out", {})
    refused = signed_in.status
    signed_in.open("/")

    assert browser.status == refused == 403
    assert "llmteam-session" not in browser.session.cookies
    assert signed_in.status == 200


def test_without_a_session_a_form_does_nothing(site: Site, ask, state) -> None:
    asked, signed_in, browser = ask("approval", "Pay?"), site.signed_in(), site.browser()
    before = state(asked)
    fields = signed_in.open(address(asked)).forms[1].values()

    browser.post(address(asked, "answer"), {**fields, "decision": "approve"})

    assert browser.status == 401
    assert state(asked) == before


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"comment=%ff", "application/x-www-form-urlencoded"),
        (b"comment=\xff", "application/x-www-form-urlencoded"),
        (b"a=1&" * 3000, "application/x-www-form-urlencoded"),
        (b"comment=%00", "application/x-www-form-urlencoded"),
        (json.dumps({"decision": "approve"}).encode(), "application/json"),
    ],
)
def test_what_is_no_form_is_refused(site: Site, ask, state, body: bytes, kind: str) -> None:
    asked, browser = ask("approval", "Pay?"), site.signed_in()
    before = state(asked)

    refused = browser.session.post(
        f"{site.url}{address(asked, 'answer')}", data=body, headers={"Content-Type": kind}, timeout=30
    )

    assert refused.status_code in {403, 422}
    assert refused.headers["content-type"].startswith("text/html")
    assert state(asked) == before


def test_looking_changes_nothing(site: Site, ask, state) -> None:
    asked, browser = ask("chat", "Which?"), site.signed_in("ann", "operators")
    before = state(asked)

    for place in ("/", "/?scope=all", address(asked), "/sign-in", "/sign-out", address(asked, "claim")):
        browser.open(place)
    statuses = [browser.session.get(f"{site.url}{address(asked, what)}", timeout=30).status_code for what in _POSTED]

    assert statuses == [405] * len(_POSTED)
    assert state(asked) == before


_POSTED = ("answer", "claim", "delegate", "cancel", "messages")


# -- what holds for every page


def pages(site: Site, ask) -> list[tuple[Browser, str]]:
    """A page of every kind, each with its browser."""
    browser = site.signed_in("ann", "operators")
    asked = [
        ask("approval", "Pay?", run_id="r", context_data={"a": [{"b": 1}, {"b": 2}], "t": "x" * 900}),
        ask("choice", "Which?", "Which one", [{"id": "a", "description": "the first"}, {"id": "b"}]),
        ask("input", "How much?", "", FORM),
        ask("input", "Anything", "", {"type": "object"}),
        ask("review", "Look", "", {"text": "a", "sub": {"n": 1}}),
        ask("chat", "Talk"),
        ask("approval", "Two", assignee=None, approvers=["ann", "bob"], quorum=2),
    ]
    places = ["/", "/?scope=all", "/sign-in", "/nothing", *(address(one) for one in asked)]
    return [(browser, place) for place in places] + [
        (site.browser(), place) for place in ("/", "/answer/nonsense", site.link(asked[0], "ann"))
    ]


def test_every_page_can_be_used_with_a_keyboard_and_read_aloud(site: Site, ask) -> None:
    for browser, place in pages(site, ask):
        page = browser.open(place)
        assert len(page.ids) == len(set(page.ids)), place
        assert [tag for tag, _ in page.elements].count("h1") == 1, place
        assert ("html", {"lang": "en"}) in page.elements
        assert any(attributes.get("name") == "viewport" for _, attributes in page.elements)
        for tag, attributes in page.elements:
            named = tag in {"textarea", "select"} or (tag == "input" and attributes.get("type") != "hidden")
            if named:
                assert page.labels.get(attributes["id"]), f"{place}: {attributes} has no label"
            for reference in attributes.get("aria-describedby", "").split():
                assert reference in page.ids, f"{place}: {attributes}"
            assert int(attributes.get("tabindex", "0")) <= 0, place
            assert not {"style", "onclick"} & attributes.keys(), place
        assert not any(tag in {"script", "style", "iframe"} for tag, _ in page.elements), place


def test_every_response_tells_browsers_to_be_careful(site: Site, ask) -> None:
    asked = ask("approval", "Pay?")
    browser = site.signed_in()
    api = site.api()
    responses = [browser.session.get(site.url + place, timeout=30) for place in ("/", address(asked), "/nothing")]
    responses += [requests.get(site.url + place, timeout=30) for place in ("/", "/sign-in", "/answer/x", "/health")]
    responses += [
        api.get("/requests"),
        api.get("/nothing"),
        api.post(f"/requests/{asked.request_id}/response", {}),
        requests.get(f"{site.url}/api/me", timeout=30),
        requests.post(f"{site.url}/sign-in", data={"token": "x"}, timeout=30),
        requests.get(f"{site.url}/api/openapi.json", timeout=30),
        requests.get(f"{site.url}/static/inbox.css", timeout=30),
    ]

    for response in responses:
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "strict-transport-security" not in response.headers
        kept = response.url.endswith(".css")
        assert response.headers["cache-control"] == ("public, max-age=3600" if kept else "no-store")
