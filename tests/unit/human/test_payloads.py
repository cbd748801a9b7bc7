"""What each channel is told, to the letter, and that nothing in a request can make it say something else."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.errors import ConfigurationError
from llmteam.human.models import InteractionPriority, InteractionType, NotificationKind
from llmteam.human.notifications.mail import mail_of
from llmteam.human.notifications.messages import Template
from llmteam.human.notifications.slack import slack_payload
from llmteam.human.notifications.teams import teams_payload
from llmteam.human.notifications.webhook import webhook_payload
from tests.unit.human.messages import ADA, BOB, message

INBOX = "https://inbox/requests/request-1"


def test_slack_gets_the_payload_of_the_contract() -> None:
    assert slack_payload(message(links=False), "#approvals") == {
        "channel": "#approvals",
        "text": "*Pay 12,000?*\nInvoice A-17\nof ACME",
        "attachments": [
            {
                "color": "#2196f3",
                "fields": [
                    {"title": "Pipeline", "value": "orders", "short": True},
                    {"title": "Priority", "value": "normal", "short": True},
                    {"title": "Deadline", "value": "2026-03-02T12:00:00+00:00", "short": True},
                    {"title": "Assignee", "value": ADA, "short": True},
                ],
                "actions": [
                    {"type": "button", "text": "Approve", "value": "approve:request-1", "style": "primary"},
                    {"type": "button", "text": "Reject", "value": "reject:request-1", "style": "danger"},
                ],
            }
        ],
    }


def test_slack_says_when_there_is_no_deadline_and_nobody_in_particular() -> None:
    (attachment,) = slack_payload(message(deadline=None, assignee_id=None))["attachments"]

    assert [field["value"] for field in attachment["fields"][2:]] == ["N/A", "Unassigned"]


@pytest.mark.parametrize(
    ("priority", "colour"),
    [("low", "#36a64f"), ("normal", "#2196f3"), ("high", "#ff9800"), ("critical", "#f44336")],
)
def test_slack_shows_the_priority_by_its_colour(priority: str, colour: str) -> None:
    (attachment,) = slack_payload(message(priority=InteractionPriority(priority)))["attachments"]

    assert attachment["color"] == colour


def test_slack_shows_up_to_five_options_of_a_choice_by_their_labels() -> None:
    options = [{"id": f"o{number}", "label": f"Option {number}"} for number in range(7)]

    payload = slack_payload(message(interaction_type=InteractionType.CHOICE, options=options))

    buttons = payload["attachments"][0]["actions"]
    assert [button["text"] for button in buttons] == [f"Option {number}" for number in range(5)]
    assert buttons[0]["value"] == "select:request-1:o0"


@pytest.mark.parametrize("kind", [InteractionType.INPUT, InteractionType.REVIEW, InteractionType.TASK])
def test_slack_shows_no_buttons_for_what_takes_more_than_a_click(kind: InteractionType) -> None:
    assert slack_payload(message(interaction_type=kind))["attachments"][0]["actions"] == []


def test_what_has_timed_out_has_no_buttons() -> None:
    payload = slack_payload(message(kind=NotificationKind.TIMED_OUT))

    assert payload["attachments"][0]["actions"] == []
    assert payload["text"].startswith("Closed, since nobody answered in time: *Pay 12,000?*")


@pytest.mark.parametrize("payload", [slack_payload, teams_payload])
def test_what_everybody_in_a_channel_reads_has_no_link_that_answers_for_one_of_them(payload) -> None:
    shown = str(payload(message(ADA, BOB)))

    assert "/answer/" not in shown
    assert INBOX in shown


@pytest.mark.parametrize("where", ["title", "description", "pipeline_id", "assignee_id"])
def test_slack_reads_no_mention_or_link_in_what_people_write(where: str) -> None:
    shown = str(slack_payload(message(**{where: "<!channel> & <https://evil|here>"})))

    assert "<" not in shown.replace("<https://inbox", "")
    assert "&lt;!channel&gt; &amp; &lt;https://evil|here&gt;" in shown


def test_teams_gets_a_card_whose_text_is_not_read_as_markdown() -> None:
    payload = teams_payload(message(title="[here](https://evil)", kind=NotificationKind.REMINDER))

    (attachment,) = payload["attachments"]
    card = attachment["content"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    texts = ["".join(run["text"] for run in block["inlines"]) for block in card["body"]]
    assert texts[:3] == ["Reminder", "[here](https://evil)", "Invoice A-17\nof ACME"]
    assert "Assignee: ada@example.com" in texts
    assert card["actions"] == [{"type": "Action.OpenUrl", "title": "Open", "url": INBOX}]


def test_a_webhook_gets_the_payload_of_the_contract() -> None:
    assert webhook_payload(message()) == {
        "request_id": "request-1",
        "type": "approval",
        "title": "Pay 12,000?",
        "description": "Invoice A-17\nof ACME",
        "priority": "normal",
        "assignees": [ADA],
        "deadline": "2026-03-02T12:00:00+00:00",
        "pipeline_id": "orders",
        "run_id": "run-1",
        "tenant_id": "acme",
        "status": "pending",
        "escalation_level": 0,
        "respond_url": "https://inbox/answer/ada",
        "respond_urls": {ADA: "https://inbox/answer/ada"},
        "kind": "requested",
        "notification_id": "notification-1",
    }


def test_a_webhook_never_takes_one_persons_link_for_everybodys() -> None:
    payload = webhook_payload(message(ADA, BOB))

    assert payload["respond_url"] == INBOX
    assert payload["respond_urls"] == {ADA: "https://inbox/answer/ada", BOB: "https://inbox/answer/bob"}


def test_a_webhook_says_that_there_is_no_link() -> None:
    payload = webhook_payload(message(links=False, deadline=None))

    assert (payload["respond_url"], payload["respond_urls"], payload["deadline"]) == (None, {}, None)


@pytest.mark.parametrize("payload", [slack_payload, teams_payload, webhook_payload])
def test_no_channel_is_told_the_data_of_a_request(payload) -> None:
    assert "s3cret" not in str(payload(message(context_data={"token": "s3cret"})))


def test_a_mail_has_text_and_html_with_the_recipients_own_link() -> None:
    mail = mail_of(message(ADA, BOB), BOB, "inbox@example.com")

    assert (mail["To"], mail["From"], mail["Subject"]) == (
        BOB,
        "inbox@example.com",
        "Your approval is needed: Pay 12,000?",
    )
    assert mail["Message-ID"] == "<notification-1@example.com>"
    text, html = mail.get_body(["plain"]).get_content(), mail.get_body(["html"]).get_content()
    for body in (text, html):
        assert "https://inbox/answer/bob" in body
        assert "/answer/ada" not in body
        assert "Invoice A-17" in body


def test_a_mail_shows_markup_as_text() -> None:
    mail = mail_of(message(title="<b>now</b>", description='<a href="https://evil">x</a>'), ADA, "i@example.com")

    html = mail.get_body(["html"]).get_content()

    assert "<b>" not in html
    assert "https://evil" in html
    assert html.count("<a ") == 1


@given(
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=300),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=300),
)
def test_nothing_in_a_request_adds_a_header_to_a_mail(title: str, description: str) -> None:
    mail = mail_of(message(title=title, description=description), ADA, "inbox@example.com")

    read = message_from_bytes(mail.as_bytes(), policy=policy.default)

    assert sorted(read.keys()) == [
        "Auto-Submitted",
        "Content-Type",
        "From",
        "MIME-Version",
        "Message-ID",
        "Subject",
        "To",
    ]
    assert read["To"] == ADA


def test_a_title_over_several_lines_is_one_subject() -> None:
    mail = mail_of(message(title="Pay\r\nBcc: eve@example.com"), ADA, "inbox@example.com")

    assert mail["Subject"] == "Your approval is needed: Pay Bcc: eve@example.com"
    assert mail["Bcc"] is None


def test_long_texts_are_cut_for_people_and_whole_for_programs() -> None:
    long = message(description="x" * 100_000)

    assert len(slack_payload(long)["text"]) < 4_000
    assert len(mail_of(long, ADA, "i@example.com").get_body(["plain"]).get_content()) < 4_000
    assert len(webhook_payload(long)["description"]) == 100_000


def test_a_template_replaces_the_text() -> None:
    template = Template("{heading} ({priority}): {title} {braces stay} {respond_url}")

    text = slack_payload(message(title="<b> {priority}"), "", template)["text"]

    assert text == f"Your approval is needed (normal): &lt;b&gt; {{priority}} {{braces stay}} {INBOX}"
    mail = mail_of(message(), ADA, "i@example.com", template)
    assert mail.get_content().strip().endswith("https://inbox/answer/ada")


def test_a_template_that_names_what_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"\{titel\}; it may name heading, kind, title"):
        Template("{titel}")
