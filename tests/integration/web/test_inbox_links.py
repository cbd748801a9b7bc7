"""Answer links: one request, one answer, without signing in."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import requests

from llmteam.human.links import LinkSigner
from llmteam.human.respond_links import RespondLinks
from llmteam.web import Parts
from tests.site import KEY, START, Browser, Site, TestClock, site_of


def test_a_link_shows_the_request_and_its_form_as_often_as_one_likes(site: Site, ask, state) -> None:
    asked, browser = ask("approval", "Pay?", context_data={"amount": "ten"}), site.browser()
    before, link = state(asked), site.link(asked, "ann")

    for _ in range(3):
        page = browser.open(link)

    assert browser.status == 200
    assert "ten" in page.said
    assert [form.attributes["action"] for form in page.forms] == [f"{link}/answer"]
    assert state(asked) == before


def test_a_link_answers_once_in_the_name_of_whom_it_was_made_for(site: Site, ask, state) -> None:
    asked, browser = ask("approval", "Pay?"), site.browser()
    link = site.link(asked, "ann")

    browser.open(link)
    fields = browser.page.forms[0].values()
    page = browser.send({"comment": "fine"}, button="approve")
    answered = state(asked)
    again = browser.post(f"{link}/answer", {**fields, "decision": "reject"}), browser.status
    looked = browser.open(link), browser.status

    assert "Thank you" in page.said
    assert answered[0].response.responder_id == "ann"
    assert again[1] == 409
    assert looked[1] == 200
    assert "It was answered by ann" in again[0].said
    assert "It was answered by ann" in looked[0].said
    assert state(asked) == answered


def test_a_link_that_was_used_is_gone_although_the_request_is_open(site: Site, ask, amend, state) -> None:
    asked = ask("approval", "Pay?", assignee=None, approvers=["ann", "bob"], quorum=2)
    browser, link = site.browser(), site.link(asked, "ann")
    browser.open(link)
    browser.send({}, button="approve")
    amend(asked, title="Pay twice?")
    before = state(asked)

    browser.open(link)
    page = browser.send({}, button="approve")

    assert browser.status == 410
    assert "it was used before" in page.said
    assert state(asked) == before


def test_links_that_were_cut_changed_or_signed_by_others_are_refused(site: Site, ask, state) -> None:
    asked = ask("approval", "Pay?")
    before, link, browser = state(asked), site.link(asked, "ann"), site.browser()
    other = Parts(site.manager, [b"another key that is long enough too"], clock=site.parts.clock)
    access = site.token("ann")

    for forged in (link[:-1], link + "0", link.replace("/answer/", "/answer/A"), f"/answer/{access}", "/answer/x"):
        page = browser.open(forged)
        assert browser.status == 403, forged
        assert "not one of ours" in page.said
        browser.post(forged, {"decision": "approve", "shown_hash": asked.shown_hash})
        assert browser.status == 403
    browser.open(replace(site, parts=other).link(asked, "ann"))

    assert browser.status == 403
    assert state(asked) == before


def test_a_link_expires(site: Site, ask, state, clock: TestClock) -> None:
    asked, browser = ask("approval", "Pay?"), site.browser()
    before, link = state(asked), site.link(asked, "ann", hours=1)
    browser.open(link)
    clock.forward(hours=1)

    page = browser.send({}, button="approve")
    answered = browser.status
    browser.open(link)

    assert answered == browser.status == 410
    assert "expired" in page.said
    assert state(asked) == before


def test_a_link_of_somebody_who_is_not_asked_any_more_answers_nothing(site: Site, ask, state) -> None:
    asked, browser = ask("approval", "Pay?"), site.browser()
    link = site.link(asked, "ann")
    browser.open(link)
    site.api("ann").post(f"/requests/{asked.request_id}/delegate", {"to": "bob"})
    before = state(asked)

    page = browser.send({}, button="approve")

    assert browser.status == 403
    assert "somebody else was asked" in page.said
    assert state(asked) == before


def test_a_link_as_notifications_have_it_answers(site: Site, ask, state) -> None:
    asked, browser = ask("approval", "Pay?"), Browser("")
    made = RespondLinks(site.url, site.parts.signer).answer_links(asked, ["ann", "eve"], site.parts.now())

    browser.open(made["ann"])
    browser.url = site.url
    browser.send({}, button="approve")

    assert list(made) == ["ann"]
    assert state(asked)[0].response.responder_id == "ann"


def test_what_a_group_is_asked_is_not_answered_by_a_link(site: Site, ask, state) -> None:
    asked, browser = ask("approval", "Pay?", assignee=None, assignee_group="finance"), site.browser()
    before = state(asked)

    page = browser.open(site.link(asked, "finance"))

    assert "You cannot answer it" in page.said
    assert page.forms == []
    assert state(asked) == before


def test_a_request_that_changed_is_shown_anew_before_a_link_answers_it(site: Site, ask, amend, state) -> None:
    asked, browser = ask("approval", "Pay?", context_data={"amount": "ten"}), site.browser()
    link = site.link(asked, "ann")
    browser.open(link)
    amend(asked, context_data={"amount": "ten thousand"})
    before = state(asked)

    page = browser.send({}, button="approve")
    refused, unchanged = browser.status, state(asked)
    told = browser.open(link)
    browser.send({}, button="reject")

    assert refused == 409
    assert "ten thousand" in page.said
    assert unchanged == before
    assert "changed since the message with this link was sent" in told.said
    assert state(asked)[0].request.status == "rejected"


@pytest.mark.parametrize("what", ["missing", "wrong"])
def test_a_form_that_is_not_of_the_links_page_does_nothing(site: Site, ask, state, what: str) -> None:
    asked, browser = ask("approval", "Pay?"), site.browser()
    before, link = state(asked), site.link(asked, "ann")
    fields = {"decision": "approve", "shown_hash": asked.shown_hash}

    browser.post(link, fields if what == "missing" else {**fields, "form_token": "0" * 64})

    assert browser.status == 403
    assert state(asked) == before


def test_a_chat_is_held_through_a_link(site: Site, ask, state) -> None:
    asked, browser = ask("chat", "Which account?"), site.browser()

    browser.open(site.link(asked, "ann"))
    browser.send({"text": "4711"}, form="/messages")
    browser.send({"text": "no, 4712"}, form="/messages")
    browser.send({}, button="close")

    case, messages = state(asked)
    assert [message.text for message in messages] == ["4711", "no, 4712"]
    assert case.request.status == "completed"


def test_another_tenants_link_leads_to_its_own_requests_only(site: Site, ask) -> None:
    asked, browser = ask("approval", "Pay?"), site.browser()
    moved = asked.model_copy(update={"tenant_id": "other"})

    browser.open(site.link(moved, "ann"))

    assert browser.status == 404


def test_a_key_that_was_replaced_still_reads_its_links(site: Site, ask, clock: TestClock) -> None:
    asked = ask("approval", "Pay?")
    link = site.link(asked, "ann")
    parts = Parts(site.manager, [b"a key of today that is long enough!", KEY], clock=clock)

    with site_of(parts) as rotated:
        browser = rotated.browser()
        browser.open(link)
        browser.send({}, button="approve")

    assert browser.status == 200


def test_behind_https_cookies_are_secure_and_browsers_are_told_to_stay(site: Site, clock: TestClock) -> None:
    parts = Parts(site.manager, [KEY], "https://inbox.example.com/people", clock)

    with site_of(parts) as secure:
        seen = requests.get(f"{secure.url}/sign-in", timeout=30)
        told = requests.get(f"{secure.url}/api/openapi.json", timeout=30).json()

    assert seen.headers["strict-transport-security"].startswith("max-age=31536000")
    cookie = seen.headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert "; Secure" in cookie
    assert 'action="/people/sign-in"' in seen.text
    assert 'href="/people/static/inbox.css"' in seen.text
    assert told["servers"] == [{"url": "/people"}]


def test_tokens_and_links_are_made_by_the_signer_of_the_keys(site: Site) -> None:
    access = LinkSigner([KEY]).read_access(site.token("ann", "finance"), START + timedelta(minutes=1))

    assert (access.person, access.groups, access.tenant_id) == ("ann", ("finance",), site.tenant)
