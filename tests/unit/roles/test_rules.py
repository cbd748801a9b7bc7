from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.roles import (
    DecisionRule,
    InvalidRuleError,
    OrchestrationContext,
    OrchestrationDecision,
    OrchestrationStrategy,
    RuleBasedStrategy,
)
from tests.unit.roles.agents import context


def decided(strategy: OrchestrationStrategy, where: OrchestrationContext) -> OrchestrationDecision:
    return asyncio.run(strategy.decide(where))


def to(agent: str) -> Any:
    return lambda _: OrchestrationDecision("route", [agent], "asked", 0.5)


def test_the_first_rule_that_decides_wins() -> None:
    strategy = RuleBasedStrategy([lambda _: None, to("b")]).add_rule(to("a"))

    decision = decided(strategy, context("a", "b"))

    assert (decision.decision_type, decision.target_agents) == ("route", ["b"])


def test_a_rule_may_be_a_coroutine_function() -> None:
    async def rule(where: OrchestrationContext) -> OrchestrationDecision:
        return OrchestrationDecision("end", [], where.current_step, 1.0)

    decision = decided(RuleBasedStrategy([rule]), context("a"))

    assert (decision.decision_type, decision.reason) == ("end", "start")


def test_without_a_rule_the_first_agent_works_and_without_an_agent_nobody() -> None:
    nobody, first = decided(RuleBasedStrategy(), context()), decided(RuleBasedStrategy(), context("a", "b"))

    assert (first.decision_type, first.target_agents, first.reason, first.confidence) == (
        "route",
        ["a"],
        "default_sequence",
        1.0,
    )
    assert (nobody.decision_type, nobody.target_agents, nobody.reason) == ("end", [], "no_more_agents")


def test_agents_that_are_done_are_not_asked_again() -> None:
    after = context("a", "b", execution_history=[{"completed": ["a"]}])

    assert decided(RuleBasedStrategy(), after).target_agents == ["b"]


def test_a_rule_that_raises_is_passed_over_and_named_without_what_it_knew() -> None:
    def breaks(_: OrchestrationContext) -> OrchestrationDecision:
        raise RuntimeError("s3cr3t")

    rules = [breaks, {"when": "global_state.amount > 5", "decision": "end"}, lambda _: "a"]
    decision = decided(RuleBasedStrategy(rules), context("a"))

    assert decision.reason == "default_sequence"
    first, second, third = decision.metadata["rule_errors"]
    assert first == {"rule": 0, "error": "RuntimeError"}
    assert (second["rule"], third["rule"]) == (1, 2)
    assert "no key 'amount'" in second["error"]


def test_a_decision_that_a_rule_keeps_is_not_changed_by_the_errors_of_another() -> None:
    kept = OrchestrationDecision("end", [], "always", 1.0)

    decision = decided(RuleBasedStrategy([{"when": "nothing", "decision": "end"}, lambda _: kept]), context())

    assert decision.metadata["rule_errors"]
    assert kept.metadata == {}


def test_a_rule_as_data_sees_every_field_of_the_context() -> None:
    when = (
        "current_step == 'draft' and 'b' in available_agents and agent_states.b.status == 'busy' and retry_count < 3"
        " and error_rate > 0.4 and step_duration == 90 and global_state.words == 7 and completed_agents == ['draft']"
        " and failed_agents == ['b'] and len(execution_history) == 1"
    )
    where = context(
        "draft",
        "b",
        current_step="draft",
        agent_states={"b": {"status": "busy"}},
        retry_count=1,
        error_rate=0.5,
        step_duration=timedelta(seconds=90),
        global_state={"words": 7},
        execution_history=[{"completed": ["draft"], "errors": {"b": "ValueError"}}],
    )
    rule = {"when": when, "decision": "retry", "targets": ["$current_step", "$failed_agents", "c"], "confidence": 0.9}

    decision = decided(RuleBasedStrategy([rule]), where)

    assert "rule_errors" not in decision.metadata
    assert decision.target_agents == ["draft", "b", "c"]
    assert (decision.decision_type, decision.confidence, decision.reason) == ("retry", 0.9, f"rule: {when}")


def test_a_target_that_is_no_name_passes_the_rule_over() -> None:
    rule = {"when": "true", "decision": "route", "targets": ["$retry_count"]}

    decision = decided(RuleBasedStrategy([rule]), context("a"))

    assert decision.reason == "default_sequence"
    assert "agent's name" in decision.metadata["rule_errors"][0]["error"]


@pytest.mark.parametrize(
    ("rule", "path", "reason"),
    [
        ("end", "rules[1]", "function or an object, not a str"),
        (..., "rules[1]", "not a ellipsis"),
        ({"decision": "end"}, "rules[1].when", "an expression is text"),
        ({"when": "a b", "decision": "end"}, "rules[1].when", "invalid syntax"),
        ({"when": "true"}, "rules[1].decision", "route, retry, escalate, skip, parallel, end"),
        ({"when": "true", "decision": "stop"}, "rules[1].decision", "one of"),
        ({"when": "true", "decision": "end", "then": 1}, "rules[1].then", "unknown key"),
        ({"when": "true", "decision": "route", "targets": "a"}, "rules[1].targets", "list of agents' names"),
        ({"when": "true", "decision": "route", "targets": ["a", "$("]}, "rules[1].targets[1]", "never closed"),
        ({"when": "true", "decision": "end", "reason": 1}, "rules[1].reason", "text"),
        ({"when": "true", "decision": "end", "confidence": 1.1}, "rules[1].confidence", "from 0 to 1"),
        ({"when": "true", "decision": "end", "confidence": True}, "rules[1].confidence", "from 0 to 1"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_place(rule: Any, path: str, reason: str) -> None:
    with pytest.raises(InvalidRuleError) as refused:
        RuleBasedStrategy([{"when": "true", "decision": "end"}, rule])

    assert refused.value.path == path
    assert reason in refused.value.reason


RULES = st.fixed_dictionaries(
    {
        "when": st.sampled_from(["true", "error_rate > 0.5", "'a' in completed_agents"]),
        "decision": st.sampled_from(["route", "retry", "escalate", "skip", "parallel", "end"]),
    },
    optional={
        "targets": st.lists(st.sampled_from(["a", "b", "$current_step", "$failed_agents"]), min_size=1),
        "reason": st.text(min_size=1, max_size=20),
        "confidence": st.floats(0, 1, exclude_max=True),
    },
)


@given(st.lists(RULES, max_size=4))
def test_rules_as_data_survive_being_stored(rules: list[dict[str, Any]]) -> None:
    strategy = RuleBasedStrategy(rules)

    again = RuleBasedStrategy.from_dict(json.loads(json.dumps(strategy.to_dict())))

    assert again.to_dict() == strategy.to_dict() == {"rules": rules}
    assert decided(again, context("a", "b")) == decided(strategy, context("a", "b"))


def test_a_strategy_with_a_function_says_which_rule_cannot_be_stored() -> None:
    strategy = RuleBasedStrategy([{"when": "true", "decision": "end"}, to("a")])

    with pytest.raises(InvalidRuleError, match=r"rules\[1\]: is a function"):
        strategy.to_dict()


@pytest.mark.parametrize("stored", [{}, {"rules": {}}, {"rules": [], "llm": "x"}, [], {"rules": [to("a")]}])
def test_what_is_no_stored_strategy_is_refused(stored: Any) -> None:
    with pytest.raises(InvalidRuleError):
        RuleBasedStrategy.from_dict(stored)


def test_a_rule_is_its_own_value() -> None:
    stored = {"when": "true", "decision": "route", "targets": ["$current_step"]}

    assert DecisionRule.from_dict(stored).to_dict() == stored


def test_the_base_decides_nothing() -> None:
    with pytest.raises(NotImplementedError):
        decided(OrchestrationStrategy(), context())
