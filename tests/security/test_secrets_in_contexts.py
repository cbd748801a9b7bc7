"""What a step was given as a secret is masked wherever the step writes it into its context."""

from __future__ import annotations

import pytest

from llmteam.codec import NotJSONError
from llmteam.context import Contexts
from llmteam.context.sealed import process_vault
from llmteam.context.stores import MemoryContextStore
from llmteam.masking import MASK, SecretValue

SECRET = "a secret of this test"


def test_a_secret_that_was_given_after_the_context_was_opened_is_masked_in_all_of_it() -> None:
    contexts = Contexts(MemoryContextStore(), lambda tenant_id: process_vault())
    given: set[str] = set()
    text = f"it is {SECRET}"

    with contexts.open("acme", "run-1", "do", hidden=given) as context:
        given.add(SECRET)
        context.update_status(text)
        context.set_data("note", {"said": [text], text: 1})
        context.add_reasoning_step(text)
        context.add_message({"text": text})

    stored = contexts.store.load("acme", "run-1", "do")
    assert stored is not None
    assert SECRET not in repr(stored)
    assert stored.document["status"] == f"it is {MASK}"
    assert stored.document["data"] == {"note": {"said": [f"it is {MASK}"], f"it is {MASK}": 1}}


def test_a_secret_as_it_was_given_is_refused_and_nothing_is_kept() -> None:
    contexts = Contexts(MemoryContextStore(), lambda tenant_id: process_vault())

    with pytest.raises(NotJSONError), contexts.open("acme", "run-1", "do", hidden={SECRET}) as context:
        context.set_data("note", SecretValue(SECRET))

    assert contexts.store.load("acme", "run-1", "do") is None
