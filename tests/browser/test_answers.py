"""People answer in a browser: what they see, what they send, and what is kept of it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from playwright.sync_api import Page, expect

from llmteam.human import InteractionStatus
from tests.browser import scenes
from tests.browser.looks import focus_shows, focused, tree
from tests.browser.people import Stage
from tests.unit.net.loopback import serving


def heading(page: Page) -> str:
    return page.get_by_role("heading", level=1).inner_text()


# -- seeing


def test_people_see_what_they_are_asked_and_open_it_from_anywhere_in_its_entry(stage: Stage) -> None:
    asked = scenes.ask_payment(stage)
    stage.ask("approval", "Somebody else's", assignee="ben")

    page = stage.signed_in()
    entries = page.get_by_role("listitem")
    expect(entries).to_have_count(1)
    expect(entries).to_contain_text("in 20 hours")
    entries.click(position={"x": 600, "y": 50})

    assert page.url.endswith(f"/requests/{asked.request_id}")
    assert heading(page) == asked.title


def test_operators_see_everybodys_requests_behind_a_tab(stage: Stage) -> None:
    stage.ask("approval", "Somebody else's", assignee="ben")

    page = stage.signed_in("ann", "operators")
    expect(page.get_by_text("Nothing waits for you.")).to_be_visible()
    page.get_by_role("link", name="All", exact=True).click()

    expect(page.get_by_role("listitem")).to_contain_text("for ben")
    expect(page.get_by_role("link", name="All", exact=True)).to_have_attribute("aria-current", "page")


def test_data_is_laid_out_and_long_text_unfolds(stage: Stage) -> None:
    page = stage.at(scenes.ask_payment(stage))

    expect(page.get_by_role("row")).to_have_text(
        [re.compile("item"), "Pump, 3 kW 2 4100 8200", re.compile("Seal"), re.compile("M")]
    )
    expect(page.get_by_text("tell purchasing of the two additional kits")).not_to_be_visible()
    page.get_by_text("528 characters").click()

    expect(page.get_by_text("tell purchasing of the two additional kits")).to_be_visible()


def test_on_a_wide_screen_the_decision_stands_beside_what_it_is_about(stage: Stage) -> None:
    page = stage.at(scenes.ask_payment(stage), viewport={"width": 1200, "height": 800})

    about = page.get_by_role("region", name="What it is about").bounding_box()
    answer = page.get_by_role("region", name="Your answer").bounding_box()

    assert about is not None
    assert answer is not None
    assert answer["x"] >= about["x"] + about["width"]
    expect(page.get_by_role("button", name="Approve")).to_be_in_viewport()


# -- answering


def test_approve(stage: Stage) -> None:
    asked = scenes.ask_payment(stage)
    page = stage.at(asked)

    page.get_by_role("button", name="Approve").click()

    expect(page.get_by_role("region", name="How it ended")).to_contain_text("answered by ann")
    assert stage.case(asked).response.approved is True
    page.get_by_role("link", name="Inbox").click()
    expect(page.get_by_text("Nothing waits for you.")).to_be_visible()


def test_reject_with_a_comment(stage: Stage) -> None:
    asked = scenes.ask_payment(stage)
    page = stage.at(asked)

    page.get_by_label("Comment").fill("Ten kits were ordered.\nAsk them for a new invoice.")
    page.get_by_role("button", name="Reject").click()

    expect(page.get_by_role("region", name="How it ended")).to_contain_text("rejected by ann")
    case = stage.case(asked)
    assert case.request.status is InteractionStatus.REJECTED
    assert case.response.reason == "Ten kits were ordered.\nAsk them for a new invoice."


def test_choose_one(stage: Stage) -> None:
    asked = scenes.ask_carrier(stage)
    page = stage.at(asked)

    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("choose one")
    page.get_by_text("By rail").click()
    expect(page.get_by_role("radio", name="By rail")).to_be_checked()
    page.get_by_role("button", name="Send").click()

    expect(page.get_by_role("region", name="How it ended")).to_contain_text("rail")
    assert stage.case(asked).response.selected_option == "rail"


def test_a_mistake_is_told_beside_its_field_what_was_typed_is_kept_and_it_can_be_mended(stage: Stage) -> None:
    asked = scenes.ask_account(stage)
    page = stage.at(asked)
    page.get_by_label("Company").fill("Okafor & Söhne <Logistics>")
    page.get_by_label("Credit limit").fill("100")
    page.get_by_label("Plan").select_option("Team")
    page.get_by_label("First day").fill("2026-02-01")
    page.get_by_label("Send invoices by mail").check()
    page.get_by_label("Name").fill("Jane")
    page.get_by_label("Tags").fill("south\nnew")

    page.get_by_role("button", name="Send").click()
    limit = page.get_by_label("Credit limit")
    expect(limit).to_have_accessible_description("In euros, from 500 to 50,000. Error: must be at least 500")
    expect(limit).to_have_attribute("aria-invalid", "true")
    assert stage.case(asked).response is None
    page.get_by_role("link", name="Credit limit: must be at least 500").click()
    assert focused(page)[1].startswith("Credit limit")
    limit.fill("1000")
    page.get_by_role("button", name="Send").click()

    expect(page.get_by_role("region", name="How it ended")).to_be_visible()
    assert stage.case(asked).response.input_data == {
        "company": "Okafor & Söhne <Logistics>",
        "limit": 1000,
        "plan": "Team",
        "start": "2026-02-01",
        "invoice_by_mail": True,
        "contact": {"name": "Jane"},
        "tags": ["south", "new"],
    }


def test_what_is_wrong_has_the_focus_so_that_it_is_read_first(stage: Stage) -> None:
    page = scenes.form_with_mistakes(stage)

    assert page.get_by_role("alert").evaluate("one => one === document.activeElement")
    assert page.title().startswith("Error: ")


def test_change_what_is_reviewed(stage: Stage) -> None:
    asked = scenes.ask_reply(stage)
    page = stage.at(asked)

    page.get_by_text("Change it").click()
    page.get_by_label("subject").fill("Your order 20417 is on its way")
    page.get_by_role("button", name="Send the changes").click()

    expect(page.get_by_role("region", name="How it ended")).to_contain_text("is on its way")
    assert stage.case(asked).response.review_changes == {**scenes.REPLY, "subject": "Your order 20417 is on its way"}


def test_chat_until_it_is_closed(stage: Stage) -> None:
    asked = scenes.ask_chat(stage)
    page = stage.at(asked)

    page.get_by_label("Your message").fill("Then we send somebody.\nOn us.")
    page.get_by_role("button", name="Send").click()
    messages = page.get_by_role("region", name="Messages").get_by_role("listitem")
    expect(messages).to_have_count(4)
    expect(messages.last).to_contain_text("Then we send somebody.")
    stage.do(stage.site.manager.send_message(asked.request_id, "order_desk", "They said yes."))
    page.get_by_role("link", name="Look for new messages").click()
    page.reload()
    expect(messages).to_have_count(5)
    page.get_by_label("Comment").fill("Monday, on us")
    page.get_by_role("button", name="Close").click()

    expect(page.get_by_role("region", name="How it ended")).to_contain_text("Monday, on us")
    assert stage.case(asked).request.status is InteractionStatus.COMPLETED


def test_what_changed_while_it_was_open_is_shown_anew_and_not_approved_unread(stage: Stage) -> None:
    asked = scenes.ask_payment(stage)
    page = stage.at(asked)
    page.get_by_label("Comment").fill("Fine with me")
    stage.do(stage.site.manager.amend(asked.request_id, context_data={**scenes.PAYMENT, "total": 99000}))

    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_contain_text("It has changed since you opened it")
    expect(page.get_by_role("region", name="What it is about")).to_contain_text("99000")
    expect(page.get_by_label("Comment")).to_have_value("Fine with me")
    assert stage.case(asked).response is None
    page.get_by_role("button", name="Reject").click()

    expect(page.get_by_role("region", name="How it ended")).to_contain_text("rejected by ann")


def test_two_tabs_answer_once(stage: Stage) -> None:
    asked = scenes.ask_payment(stage)
    first, second = stage.at(asked), stage.at(asked)

    first.get_by_role("button", name="Approve").click()
    first.get_by_role("region", name="How it ended").wait_for()
    second.get_by_role("button", name="Reject").click()

    expect(second.get_by_role("alert")).to_contain_text("it is closed already")
    expect(second.get_by_role("region", name="How it ended")).to_contain_text("answered by ann")
    assert stage.case(asked).response.approved is True


# -- links


def test_an_answer_link_answers_once_without_signing_in(stage: Stage) -> None:
    asked = scenes.ask_payment(stage)
    link = stage.site.link(asked, "ann")
    first, second = stage.visitor(), stage.visitor()
    first.goto(link)
    second.goto(link)

    first.get_by_role("button", name="Approve").click()
    expect(first.get_by_text("Thank you, your answer was taken.")).to_be_visible()
    second.get_by_role("button", name="Reject").click()

    expect(second.get_by_role("alert")).to_be_visible()
    expect(second.get_by_role("button", name="Reject")).to_have_count(0)
    assert stage.case(asked).response.approved is True
    first.goto(link)
    expect(first.get_by_role("region", name="How it ended")).to_contain_text("answered by ann")


@pytest.mark.parametrize(("spoil", "status"), [("", 410), ("x", 403)], ids=["expired", "forged"])
def test_a_link_that_is_worth_nothing_says_so_and_shows_nothing(stage: Stage, spoil: str, status: int) -> None:
    asked = scenes.ask_payment(stage)
    page = stage.visitor()

    answer = page.goto(stage.site.link(asked, "ann", hours=-1) + spoil)

    assert answer is not None
    assert answer.status == status
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_text(asked.title)).to_have_count(0)
    expect(page.get_by_role("button")).to_have_count(0)


def test_an_answer_after_the_deadline_is_refused_on_the_page(stage: Stage) -> None:
    asked = stage.ask("approval", "Send it?", timeout=timedelta(minutes=30))
    page = stage.at(asked)

    stage.clock.forward(minutes=40)
    page.get_by_role("button", name="Approve").click()

    expect(page.get_by_role("alert")).to_contain_text("it is closed already")
    expect(page.get_by_role("region", name="How it ended")).to_contain_text("The time for it is over.")
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    assert stage.case(asked).response is None


# -- by keyboard, and without scripts


def tab_to(page: Page, tag: str, said: str) -> None:
    """Press Tab until it has the focus; each stop on the way must be seen."""
    for _ in range(40):
        page.keyboard.press("Tab")
        # Behind the last stop the focus leaves the page, and comes back at its beginning.
        assert focused(page)[0] == "body" or focus_shows(page), f"nobody sees that {focused(page)} has the focus"
        if focused(page)[0] == tag and said in focused(page)[1]:
            return
    raise AssertionError(f"Tab does not lead to {said!r}")


def test_from_signing_in_to_a_rejected_request_by_keyboard_only(stage: Stage) -> None:
    asked = scenes.ask_payment(stage)
    page = stage.visitor()
    page.goto("/")

    assert focused(page) == ("input", "Access token")
    assert focus_shows(page)
    page.keyboard.insert_text(stage.site.token("ann"))
    tab_to(page, "button", "Sign in")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="My requests").wait_for()
    tab_to(page, "a", "Skip to content")
    tab_to(page, "a", asked.title)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=asked.title).wait_for()
    tab_to(page, "summary", "528 characters")
    page.keyboard.press("Enter")
    expect(page.get_by_text("tell purchasing of the two additional kits")).to_be_visible()
    tab_to(page, "textarea", "Comment")
    page.keyboard.type("Ten were ordered.")
    tab_to(page, "button", "Reject")
    page.keyboard.press("Space")

    expect(page.get_by_role("region", name="How it ended")).to_contain_text("rejected by ann")
    assert stage.case(asked).response.reason == "Ten were ordered."


def test_a_choice_is_made_by_arrow_keys(stage: Stage) -> None:
    asked = scenes.ask_carrier(stage)
    page = stage.at(asked)

    tab_to(page, "input", "By rail")
    page.keyboard.press("ArrowDown")
    tab_to(page, "button", "Send")
    page.keyboard.press("Enter")

    page.get_by_role("region", name="How it ended").wait_for()
    assert stage.case(asked).response.selected_option == "road"


def test_everything_works_without_scripts(stage: Stage) -> None:
    asked = scenes.ask_account(stage)
    page = stage.at(asked, java_script_enabled=False)

    page.get_by_label("Company").fill("Okafor")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("alert").wait_for()
    page.get_by_label("Credit limit").fill("500")
    page.get_by_label("Plan").select_option("Starter")
    page.get_by_label("Name").fill("Jane")
    page.get_by_role("button", name="Send").click()

    page.get_by_role("region", name="How it ended").wait_for()
    assert stage.case(asked).response.input_data["company"] == "Okafor"


def test_what_people_are_asked_runs_as_no_script(stage: Stage) -> None:
    evil = "<script>document.title = 'mine'</script><img src=x onerror=\"document.title = 'mine'\">"
    asked = stage.ask("review", f"Read {evil}", evil, {evil: evil, "link": "javascript:alert(1)"})

    page = stage.at(asked)

    assert heading(page) == f"Read {evil}"
    assert page.title().startswith("Read <script>")
    expect(page.locator("main img, main script, main [onerror], a[href^='javascript']")).to_have_count(0)


def test_other_sites_cannot_show_it_in_a_frame(stage: Stage) -> None:
    page = stage.visitor()
    framed = f"<title>Prizes</title><iframe src='{stage.site.url}/sign-in'></iframe>".encode()

    with serving() as other, page.expect_console_message(lambda said: "frame-ancestors" in said.text):
        other.routes["/"] = lambda request: request.answer(200, framed, Content_Type="text/html")
        page.goto(f"http://localhost:{other.port}/")

    expect(page.frame_locator("iframe").get_by_role("heading", name="Sign in")).to_have_count(0)
    stage.complaints.clear()  # of just that


# -- assistive technology


def test_assistive_technology_is_told_what_each_field_is_for(stage: Stage) -> None:
    told = tree(scenes.form_with_mistakes(stage))

    assert ("textbox", "Company") in told
    assert ("combobox", "Plan") in told
    assert ("checkbox", "Send invoices by mail") in told
    assert ("group", "Contact") in told
    assert ("button", "Refuse") in told
    assert ("region", "Your answer") in told
    assert ("navigation", "Inbox") in told


def test_a_cookie_is_kept_from_scripts_and_signing_out_forgets_it(stage: Stage) -> None:
    page = stage.signed_in()
    (session,) = (one for one in page.context.cookies() if one["name"] == "llmteam-session")

    assert session["httpOnly"]
    assert session["sameSite"] == "Lax"
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Sign in").wait_for()
    assert [one for one in page.context.cookies() if one["name"] == "llmteam-session"] == []
