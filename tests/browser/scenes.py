"""Pages worth looking at, each in the state that its name says: what tests measure, and pictures show."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from playwright.sync_api import Page

from llmteam.mining import page as mining_page
from llmteam.mining.records import StoredRun
from llmteam.mining.report import Report
from tests.browser.people import Stage
from tests.mined import START, at, drawn_net, told

PAYMENT = {
    "vendor": "Acme Industrial Supplies GmbH",
    "invoice": "INV-2026-00417",
    "total": 12480.5,
    "currency": "EUR",
    "due": "2026-01-31",
    "purchase_order": {
        "number": "PO-8841",
        "approved_by": "Tomás Ibáñez",
        "budget": {"code": "4711-OPS", "left": 18200},
    },
    "lines": [
        {"item": "Pump, 3 kW", "quantity": 2, "price": 4100, "sum": 8200},
        {"item": "Seal kit", "quantity": 12, "price": 189.5, "sum": 2274},
        {"item": "Mounting and first run", "quantity": 1, "price": 2006.5, "sum": 2006.5},
    ],
    "checks": ["Vendor is known", "Amounts add up", "Delivery was confirmed"],
    "what the model says": (
        "The invoice agrees with purchase order PO-8841 in all lines but one: the order has 10 seal kits, the "
        "invoice 12. The delivery note of 19 December confirms 12, signed by the warehouse. The difference of "
        "379.00 EUR is within the tolerance of 5 % that the purchasing policy allows without another order. "
        "The bank account is the one on file since 2023, and was last used on 2 December. Nothing here points "
        "to a mistake or to fraud; I suggest to pay, and to tell purchasing of the two additional kits so "
        "that the order can be mended."
    ),
}

CARRIERS = [
    {"id": "rail", "label": "By rail", "description": "Arrives on 14 January, 1,240 EUR, 0.3 t of CO₂."},
    {"id": "road", "label": "By road", "description": "Arrives on 9 January, 1,610 EUR, 1.1 t of CO₂."},
    {"id": "air", "label": "By air", "description": "Arrives on 5 January, 4,980 EUR, 6.4 t of CO₂."},
]

ACCOUNT = {
    "type": "object",
    "required": ["company", "limit", "plan", "contact"],
    "properties": {
        "company": {"type": "string", "title": "Company", "maxLength": 80},
        "limit": {
            "type": "number",
            "title": "Credit limit",
            "description": "In euros, from 500 to 50,000.",
            "minimum": 500,
            "maximum": 50000,
        },
        "plan": {"title": "Plan", "enum": ["Starter", "Team", "Enterprise"]},
        "start": {"type": "string", "format": "date", "title": "First day"},
        "invoice_by_mail": {"type": "boolean", "title": "Send invoices by mail"},
        "contact": {
            "type": "object",
            "title": "Contact",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "title": "Name"},
                "email": {"type": "string", "format": "email", "title": "E-mail"},
            },
        },
        "tags": {"type": "array", "items": {"type": "string"}, "title": "Tags"},
        "notes": {"type": "string", "maxLength": 2000, "title": "Notes"},
    },
}

REPLY = {
    "to": "j.okafor@example.com",
    "subject": "Your order 20417",
    "body": "Dear Ms Okafor,\n\nyour pump left our warehouse this morning and will be there on Friday.\n\nKind regards",
    "priority": 2,
    "attach_invoice": True,
}

_ORIGIN: dict[str, Any] = {"run_id": "invoice-0417", "pipeline_id": "pay_invoice", "agent_name": "pay_invoice"}


def ask_payment(stage: Stage, **more: Any) -> Any:
    return stage.ask(
        "approval",
        "Pay 12,480.50 EUR to Acme Industrial Supplies?",
        "The invoice is above the limit of 10,000 EUR, so that somebody of finance has to agree.",
        context_data=PAYMENT,
        priority="high",
        timeout=timedelta(hours=20),
        **{**_ORIGIN, **more},
    )


def ask_carrier(stage: Stage) -> Any:
    what = "Which carrier takes shipment 8841?", "The customer expects it by 12 January."
    return stage.ask("choice", *what, CARRIERS, context_data={"weight": "1.8 t", "from": "Graz", "to": "Porto"})


def ask_account(stage: Stage) -> Any:
    return stage.ask("input", "New account for Okafor Logistics", "The sales team needs these to open it.", ACCOUNT)


def ask_reply(stage: Stage) -> Any:
    return stage.ask("review", "Answer to Ms Okafor", "Read it before it is sent.", REPLY, timeout=timedelta(hours=2))


def ask_chat(stage: Stage) -> Any:
    chat = {"agent_name": "order_desk", "timeout": timedelta(days=3)}
    asked = stage.ask("chat", "The pump of order 20417 does not fit: what shall we offer?", **chat)
    for sender, text in (
        ("order_desk", "The customer sent a photo: the flange has six holes, theirs has four."),
        ("ann", "We have the four-hole version in Graz. Would they take it on Monday?"),
        ("order_desk", "They would, if nobody has to take the old one down again."),
    ):
        stage.do(stage.site.manager.send_message(asked.request_id, sender, text))
    return asked


def sign_in(stage: Stage, **options: Any) -> Page:
    page = stage.visitor(**options)
    page.goto("/")
    return page


def nothing(stage: Stage, **options: Any) -> Page:
    return stage.signed_in(**options)


def inbox(stage: Stage, **options: Any) -> Page:
    ask_payment(stage)
    ask_reply(stage)
    ask_carrier(stage)
    ask_account(stage)
    ask_chat(stage)
    stage.ask("approval", "Delete 3 accounts that nobody used since 2023", priority="critical", timeout=1500)
    return stage.signed_in("ann", "operators", **options)


def approval(stage: Stage, **options: Any) -> Page:
    return stage.at(ask_payment(stage), "ann", "operators", **options)


def approval_of_several(stage: Stage, **options: Any) -> Page:
    asked = ask_payment(stage, assignee=None, approvers=["ann", "ben", "chi"], quorum=2)
    said = {"approved": True, "comment": "The delivery note is in the archive.", "shown_hash": asked.shown_hash}
    stage.do(stage.site.manager.respond(asked.request_id, "ben", **said))
    return stage.at(asked, **options)


def choice(stage: Stage, **options: Any) -> Page:
    return stage.at(ask_carrier(stage), **options)


def form(stage: Stage, **options: Any) -> Page:
    return stage.at(ask_account(stage), **options)


def form_with_mistakes(stage: Stage, **options: Any) -> Page:
    page = stage.at(ask_account(stage), **options)
    page.get_by_label("Company").fill("Okafor Logistics")
    page.get_by_label("Credit limit").fill("100")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("alert").wait_for()
    return page


def review(stage: Stage, **options: Any) -> Page:
    page = stage.at(ask_reply(stage), **options)
    page.get_by_text("Change it").click()
    return page


def chat(stage: Stage, **options: Any) -> Page:
    return stage.at(ask_chat(stage), **options)


def answer_link(stage: Stage, **options: Any) -> Page:
    page = stage.visitor(**options)
    page.goto(stage.site.link(ask_payment(stage), "ann"))
    return page


def changed(stage: Stage, **options: Any) -> Page:
    asked = ask_payment(stage)
    page = stage.at(asked, **options)
    stage.do(stage.site.manager.amend(asked.request_id, context_data={**PAYMENT, "total": 99000}))
    page.get_by_role("button", name="Approve").click()
    page.get_by_role("alert").wait_for()
    return page


def answered(stage: Stage, **options: Any) -> Page:
    page = stage.at(ask_payment(stage), **options)
    page.get_by_label("Comment").fill("As ordered; two more seal kits are fine.")
    page.get_by_role("button", name="Approve").click()
    page.get_by_role("heading", name="How it ended").wait_for()
    return page


def expired_link(stage: Stage, **options: Any) -> Page:
    page = stage.visitor(**options)
    page.goto(stage.site.link(ask_payment(stage), "ann", hours=-1))
    return page


def mining_report(stage: Stage, **options: Any) -> Page:
    """Two runs with branches and somebody who was asked, one of which broke off."""
    net = drawn_net("load_invoice -> split_1", "split_1 -> human_1 -> all_1", "split_1 -> check_totals -> all_1")
    events = told(
        *("0 segment.started", "1 step.started load_invoice", "3 step.completed load_invoice"),
        *("3 step.started split_1", "3 step.completed split_1", "4 step.started human_1"),
        *("4 human.task_created human_1", "5 step.started check_totals", "7 step.retrying check_totals"),
        *("9 step.started check_totals", "11 step.completed check_totals", "3600 step.completed human_1"),
        *("3601 step.started all_1", "3602 step.completed all_1", "3602 segment.completed"),
    )
    found = Report()
    for run_id, known in (("invoice-0417", events), ("invoice-0418", events[:-1])):
        run = StoredRun("acme", run_id, "pay_invoice", "completed", "h", None, START, START, at(3602), known)
        found.add(run, net)
    page = stage.visitor(**options)
    page.set_content(mining_page.page(found, tenant="acme", made_at=at(7200)))
    return page


SCENES: dict[str, Callable[..., Page]] = {
    scene.__name__.replace("_", "-"): scene
    for scene in (
        sign_in,
        nothing,
        inbox,
        approval,
        approval_of_several,
        choice,
        form,
        form_with_mistakes,
        review,
        chat,
        answer_link,
        changed,
        answered,
        expired_link,
        mining_report,
    )
}
