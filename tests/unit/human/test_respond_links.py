"""Who gets a link that answers, and for how long."""

from __future__ import annotations

from datetime import timedelta

from llmteam.human.links import LinkSigner
from llmteam.human.models import InteractionStatus
from llmteam.human.respond_links import RespondLinks
from llmteam.settings import Settings
from tests.unit.human.messages import ADA, BOB, NOW, request

SIGNER = LinkSigner([b"k" * 32])
LINKS = RespondLinks("https://inbox.example.com/team/", SIGNER)
BASE = "https://inbox.example.com/team/answer/"


def test_a_link_names_who_may_answer_what_and_as_it_is_shown() -> None:
    asked = request()

    link = SIGNER.read_link(LINKS.answer_links(asked, [ADA], NOW)[ADA].removeprefix(BASE), NOW)

    assert (link.tenant_id, link.request_id, link.person) == ("acme", "request-1", ADA)
    assert (link.shown_hash, link.expires_at) == (asked.shown_hash, asked.deadline)


def test_each_link_is_one_of_its_own() -> None:
    links = [LINKS.answer_links(request(), [ADA], NOW)[ADA] for _ in range(2)]

    assert links[0] != links[1]


def test_no_link_works_for_longer_than_a_week() -> None:
    for deadline in (None, NOW + timedelta(days=30)):
        link = LINKS.answer_links(request(deadline=deadline), [ADA], NOW)[ADA]
        assert SIGNER.read_link(link.removeprefix(BASE), NOW).expires_at == NOW + timedelta(days=7)


def test_only_people_who_may_answer_get_one() -> None:
    asked = request(assignee_group="finance", approvers=[BOB], four_eyes=True, requester_id=BOB)

    assert list(LINKS.answer_links(asked, [ADA, BOB, "finance", "eve@example.com"], NOW)) == [ADA]


def test_there_is_none_for_what_is_over() -> None:
    assert LINKS.answer_links(request(status=InteractionStatus.CANCELLED), [ADA], NOW) == {}
    assert LINKS.answer_links(request(deadline=NOW), [ADA], NOW) == {}


def test_without_an_inbox_or_a_key_there_are_none() -> None:
    assert RespondLinks().answer_links(request(), [ADA], NOW) == {}
    assert RespondLinks("https://inbox.example.com").answer_links(request(), [ADA], NOW) == {}
    assert RespondLinks.of(Settings(web_keys=(b"k" * 32,))).answer_links(request(), [ADA], NOW) == {}


def test_the_page_of_a_request_needs_no_key() -> None:
    assert RespondLinks("https://inbox.example.com").inbox_url(request()) == (
        "https://inbox.example.com/requests/request-1"
    )
    assert RespondLinks().inbox_url(request()) == ""
