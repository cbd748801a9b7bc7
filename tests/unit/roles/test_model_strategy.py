from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmteam import codec
from llmteam.roles import LLMBasedStrategy, OrchestrationContext, OrchestrationDecision
from llmteam.runtime import Completion, CompletionRequest, Usage
from tests.unit.roles.agents import context


class Generates:
    model = "small"

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.asked: list[str] = []

    async def generate(self, prompt: str) -> Any:
        self.asked.append(prompt)
        return self.reply


class Completes:
    def __init__(self, reply: str) -> None:
        self.reply = reply

    async def complete(self, prompt: str, **kwargs: Any) -> str:
        return self.reply


class Chats(Completes):
    async def chat(self, request: CompletionRequest) -> Completion:
        return Completion(self.reply, usage=Usage(11, 7), model="large-2")


def decided(llm: Any, where: OrchestrationContext, template: str | None = None) -> OrchestrationDecision:
    return asyncio.run(LLMBasedStrategy(llm, template).decide(where))


def test_the_decision_is_what_the_model_says() -> None:
    reply = '{"decision": "parallel", "targets": ["a", "b"], "reason": "both", "confidence": 0.7}'

    decision = decided(Generates(reply), context("a", "b"))

    assert (decision.decision_type, decision.target_agents) == ("parallel", ["a", "b"])
    assert (decision.reason, decision.confidence) == ("both", 0.7)


def test_what_the_model_leaves_out_has_its_default() -> None:
    decision = decided(Generates("{}"), context("a"))

    assert (decision.decision_type, decision.target_agents) == ("route", [])
    assert (decision.reason, decision.confidence) == ("llm_decision", 0.8)


@pytest.mark.parametrize("reply", ["a, please", "[]", "7", "null", '{"decision": NaN}', None, "[" * 5000])
def test_an_answer_that_is_no_object_decides_nothing(reply: Any) -> None:
    decision = decided(Generates(reply), context("a"))

    assert (decision.decision_type, decision.target_agents) == ("route", [])
    assert (decision.reason, decision.confidence) == ("llm_parse_error", 0.5)


def test_an_answer_in_a_code_fence_is_read() -> None:
    reply = 'Sure:\n```json\n{"decision": "end"}\n```\n'

    assert decided(Generates(reply), context("a")).decision_type == "end"


def test_targets_that_nobody_knows_are_left_out_and_named() -> None:
    reply = '{"targets": ["b", "mallory", ["x"]]}'

    decision = decided(Generates(reply), context("a", "b"))

    assert decision.target_agents == ["b"]
    assert decision.metadata["dropped_targets"] == ["mallory", "['x']"]


@pytest.mark.parametrize(("said", "kept"), [("7", 1.0), ("-1", 0.0), ('"high"', 0.8), ("true", 0.8), ("0.25", 0.25)])
def test_confidence_is_between_0_and_1(said: str, kept: float) -> None:
    decision = decided(Generates(f'{{"confidence": {said}}}'), context("a"))

    assert decision.confidence == kept


def test_a_template_may_name_any_part_of_the_context_and_keep_its_braces() -> None:
    llm = Generates("{}")
    history = [{"number": number} for number in range(7)]
    where = context("a", "b", agent_states={"a": {"busy": False}}, error_rate=0.5, execution_history=history)

    decided(llm, where, 'At {current_step} with {agents} {states} {history} {error_rate}: {{"x": {y}}} {agents.x}')

    shown = '[{"number":2},{"number":3},{"number":4},{"number":5},{"number":6}]'
    assert llm.asked == [f'At start with a, b {{"a":{{"busy":false}}}} {shown} 0.50: {{"x": {{y}}}} {{agents.x}}']


def test_what_was_decided_on_is_kept_with_the_decision() -> None:
    llm = Generates('{"decision": "end"}')

    metadata = decided(llm, context("a")).metadata

    assert metadata == {"prompt_hash": codec.digest(llm.asked[0]), "model": "small", "reply": '{"decision": "end"}'}


def test_models_of_the_runtime_are_asked_too_and_their_tokens_kept() -> None:
    reply = '{"decision": "skip", "targets": "a"}'

    plain, chatting = decided(Completes(reply), context("a")), decided(Chats(reply), context("a"))

    assert (plain.decision_type, plain.target_agents) == ("skip", ["a"])
    assert (chatting.metadata["model"], chatting.metadata["usage"]) == (
        "large-2",
        {"input_tokens": 11, "output_tokens": 7},
    )
