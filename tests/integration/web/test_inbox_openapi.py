"""Requests that Schemathesis makes from the OpenAPI document: each is answered as the document says, none breaks it."""

from __future__ import annotations

import asyncio
import re
import zlib
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from llmteam.human import HumanInteractionManager, InteractionRequest, MemoryInteractionStore
from llmteam.tenancy import TenantContext
from llmteam.web import Parts, create_app
from tests.site import KEY, Site, TestClock

CLOCK = TestClock()
MANAGER = HumanInteractionManager(MemoryInteractionStore(CLOCK), clock=CLOCK)
PARTS = Parts(MANAGER, [KEY], clock=CLOCK)
TOKEN = Site("", PARTS).token("ann", "operators")
#: What is asked; one of these, fresh, is there for each request that needs one.
ASKED: list[tuple[str, tuple[Any, ...]]] = [
    ("approval", ("Pay?",)),
    ("choice", ("Which?", "", [{"id": "a"}, {"id": "b"}])),
    ("input", ("How much?", "", {"type": "object", "properties": {"amount": {"type": "number"}}})),
    ("review", ("Look", "", {"text": "a"})),
    ("chat", ("Which account?",)),
]
#: What a JSON Schema cannot say of bodies: no NUL characters inside of them. Such a body is refused with 422.
UNSAID = [positive_data_acceptance]

schema = schemathesis.openapi.from_asgi("/api/openapi.json", create_app(PARTS))


def asked(number: int) -> InteractionRequest:
    """A fresh request of one of the types."""
    kind, what = ASKED[number % len(ASKED)]
    with TenantContext("acme"):
        return asyncio.run(getattr(MANAGER, f"request_{kind}")(*what, assignee="ann"))


@schema.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    """Three of four cases are about a request that there is, and know what it shows."""
    given = case.path_parameters.get("request_id")
    number = zlib.crc32(repr((given, case.body)).encode("utf-8", "replace"))
    if given is None or number % 4 == 0:
        return case
    request = asked(number // 4)
    case.path_parameters["request_id"] = request.request_id
    shown = case.body.get("shown_hash") if isinstance(case.body, dict) else None
    if isinstance(shown, str) and re.fullmatch(r"[0-9a-f]{64}", shown):
        case.body["shown_hash"] = request.shown_hash
    return case


@schema.parametrize()
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_operation_answers_as_its_description_says(case: schemathesis.Case) -> None:
    case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, excluded_checks=UNSAID)


def test_the_document_of_the_inbox_has_every_call() -> None:
    described = {f"{one.ok().method.upper()} {one.ok().path}" for one in schema.get_all_operations()}
    page = (Path(__file__).parents[3] / "docs/inbox.md").read_text(encoding="utf-8")
    table = page.partition("<!-- calls -->")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| `([A-Z]+) (\S+)`", table, re.MULTILINE)

    assert {f"{method} /api{path.replace('{id}', '{request_id}')}" for method, path in listed} == described
