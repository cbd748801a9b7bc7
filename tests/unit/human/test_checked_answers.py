"""An answer is tried before any lock is held, and tried again only when the request has changed since."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from llmteam.canvas.handlers import ask_person
from llmteam.human import (
    HumanInteractionManager,
    InvalidRequestError,
    InvalidResponseError,
    MemoryInteractionStore,
    rules,
)
from llmteam.human.models import InteractionType
from llmteam.human.rulings import Case
from llmteam.runtime import RuntimeContext, StepContext
from tests.unit.human.samples import NOW, answer, opened

AGE = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def test_what_was_checked_against_the_same_request_is_not_checked_under_its_lock() -> None:
    request = opened(InteractionType.INPUT, input_schema=AGE).request
    wrong = replace(answer(input_data={"age": "old"}), checked=request.shown_hash)
    changed = request.changed(title="How old are you?")

    ruling = rules.respond(Case(request), wrong, NOW)

    assert ruling.final
    with pytest.raises(InvalidResponseError, match="integer"):
        rules.respond(Case(changed), wrong, NOW)


def test_a_wrong_answer_is_refused_without_a_look_at_the_locked_request() -> None:
    store = MemoryInteractionStore()
    manager = HumanInteractionManager(store)

    async def story() -> None:
        request = await manager.request_input("How old?", "", AGE)
        store.core.apply = None  # type: ignore[method-assign, assignment]  # nobody may get as far
        with pytest.raises(InvalidResponseError, match="integer"):
            await manager.respond(request.request_id, "ann", input_data={"age": "old"})

    asyncio.run(story())


def test_a_step_that_asks_wrongly_says_which_key_and_keeps_its_values_to_itself() -> None:
    ctx = StepContext(RuntimeContext("acme", "", "run", "segment"), "ask")

    with pytest.raises(InvalidRequestError, match=r"step 'ask' .*quorum") as caught:
        ask_person(ctx, {"task_type": "approval", "quorum": "s3cr3t"}, {})

    assert "s3cr3t" not in str(caught.value)
