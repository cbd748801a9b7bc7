from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from llmteam.roles import (
    AgentResultError,
    InvalidOrchestrationError,
    LLMBasedStrategy,
    OrchestrationContext,
    OrchestrationDecision,
    OrchestrationLimitError,
    OrchestrationStrategy,
    PipelineOrchestrator,
    RuleBasedStrategy,
)
from llmteam.tenancy import TenantContext
from tests.unit.roles.agents import Recorder, Ticking, Writes, context


class Says(OrchestrationStrategy):
    """Decides as it was told, then ends; keeps the contexts that it saw."""

    def __init__(self, *decisions: tuple[str, list[str]]) -> None:
        self.left = list(decisions)
        self.seen: list[OrchestrationContext] = []

    async def decide(self, context: OrchestrationContext) -> OrchestrationDecision:
        self.seen.append(context)
        kind, targets = self.left.pop(0) if self.left else ("end", [])
        return OrchestrationDecision(kind, targets, "told", 1.0)


def pipeline(strategy: OrchestrationStrategy | None = None, /, **agents: Any) -> PipelineOrchestrator:
    made = PipelineOrchestrator("p", strategy, mining=Recorder, clock=Ticking())
    for name, agent in agents.items():
        made.register_agent(name, agent)
    return made


def ran(orchestrator: PipelineOrchestrator, run_id: str = "r", **state: Any) -> dict[str, Any]:
    return asyncio.run(orchestrator.orchestrate(run_id, state))


def test_without_a_strategy_each_agent_works_once_in_the_order_of_registration() -> None:
    orchestrator = pipeline(a=Writes("x", 1), b=Writes("y", 2))

    state = ran(orchestrator, n=0)

    assert state == {"n": 0, "x": 1, "y": 2}
    told = [(one["step"], one["decision"]["reason"]) for one in orchestrator.get_execution_history()]
    assert told == [("start", "default_sequence"), ("a", "default_sequence"), ("b", "no_more_agents")]


def test_a_run_without_agents_ends_with_its_input() -> None:
    assert ran(pipeline(), n=1) == {"n": 1}


def test_the_input_is_not_changed_and_no_agent_sees_what_another_does_to_its_copy() -> None:
    class Spoils:
        async def process(self, state: dict[str, Any]) -> None:
            state["list"].append("spoiled")
            state["other"] = True

    given, looks = {"list": [1]}, Writes("seen")

    state = asyncio.run(pipeline(a=Spoils(), b=looks).orchestrate("r", given))

    assert given == {"list": [1]}
    assert looks.seen == [{"list": [1]}]
    assert state == {"list": [1], "seen": True}


def test_targets_of_a_route_work_one_after_the_other_and_strangers_are_passed_over() -> None:
    looks = Writes("y")
    strategy = Says(("route", ["a", "stranger", "b"]))

    state = ran(pipeline(strategy, a=Writes("x"), b=looks))

    assert state == {"x": True, "y": True}
    assert looks.seen == [{"x": True}]
    assert strategy.seen[1].current_step == "b"
    assert strategy.seen[1].completed_agents == ["a", "b"]


@pytest.mark.parametrize(
    ("kind", "targets"), [("route", ["stranger"]), ("route", []), ("end", ["a"]), ("dance", ["a"]), ("retry", [])]
)
def test_a_decision_that_moves_nobody_ends_the_run(kind: str, targets: list[str]) -> None:
    orchestrator = pipeline(Says((kind, targets), ("route", ["a"])), a=Writes("x"))

    assert ran(orchestrator) == {}
    assert len(orchestrator.get_execution_history()) == 1


def test_agents_of_a_parallel_decision_work_at_once_on_copies_and_conflicts_are_told() -> None:
    both = asyncio.Barrier(2)

    class Meets(Writes):
        async def process(self, state: dict[str, Any]) -> dict[str, Any]:
            await both.wait()
            return {**await super().process(state), "by": self.key}

    first, second = Meets("x"), Meets("y")
    orchestrator = pipeline(Says(("parallel", ["b", "a"])), a=first, b=second)

    state = ran(orchestrator, n=1)

    assert state == {"n": 1, "x": True, "y": True, "by": "x"}
    assert first.seen == second.seen == [{"n": 1}]
    entry = orchestrator.get_execution_history("r")[0]
    assert (entry["conflicts"], entry["completed"]) == (["by"], ["b", "a"])


def test_what_is_skipped_counts_as_done() -> None:
    strategy = RuleBasedStrategy([{"when": "current_step == 'start'", "decision": "skip", "targets": ["a"]}])

    assert ran(pipeline(strategy, a=Writes("x"), b=Writes("y"))) == {"y": True}


def test_an_escalated_run_ends_and_says_why() -> None:
    orchestrator = pipeline(Says(("route", ["a"]), ("escalate", ["boss"])), a=Writes("x"))

    assert ran(orchestrator) == {"x": True, "escalation": {"reason": "told", "targets": ["boss"], "step": "a"}}


def test_a_failed_call_is_tried_again_when_the_strategy_says_so() -> None:
    agent = Writes("x", errors=[ValueError("s3cr3t"), ValueError("s3cr3t")])
    rule = {"when": "failed_agents and retry_count < 2", "decision": "retry", "targets": ["$failed_agents"]}
    orchestrator = pipeline(RuleBasedStrategy([rule]), a=agent)

    state = ran(orchestrator)

    assert (state, len(agent.seen)) == ({"x": True}, 3)
    history = orchestrator.get_execution_history("r")
    assert [one.get("errors") for one in history] == [{"a": "ValueError"}, {"a": "ValueError"}, None, None]
    assert "s3cr3t" not in repr(history)


def test_strategies_see_how_much_failed_and_how_long_it_took() -> None:
    strategy = Says(("route", ["a"]), ("retry", ["a"]), ("route", ["b"]))

    ran(pipeline(strategy, a=Writes("x", errors=[ValueError()]), b=Writes("y")))

    assert [one.error_rate for one in strategy.seen] == [0.0, 1.0, 0.5, 1 / 3]
    assert [one.retry_count for one in strategy.seen] == [0, 0, 1, 0]
    assert strategy.seen[0].step_duration == timedelta()
    assert all(one.step_duration > timedelta() for one in strategy.seen[1:])


def test_an_error_that_no_rule_takes_up_is_raised() -> None:
    orchestrator = pipeline(a=Writes("x", errors=[KeyError("gone")]), b=Writes("y"))

    with pytest.raises(KeyError, match="gone"):
        ran(orchestrator)

    assert orchestrator.get_execution_history("r")[-1]["decision"]["reason"] == "agent_failed"


def test_an_error_that_a_model_says_nothing_usable_about_is_raised() -> None:
    class Babbles:
        def __init__(self) -> None:
            self.replies = ['{"targets": ["a"]}', "hm"]

        async def generate(self, prompt: str) -> str:
            return self.replies.pop(0)

    with pytest.raises(KeyError):
        ran(pipeline(LLMBasedStrategy(Babbles()), a=Writes("x", errors=[KeyError("gone")])))


def test_a_strategy_may_end_a_run_in_spite_of_an_error() -> None:
    assert ran(pipeline(Says(("route", ["a"])), a=Writes("x", errors=[KeyError("gone")])), n=1) == {"n": 1}


def test_of_parallel_agents_one_that_fails_keeps_nobody_from_finishing() -> None:
    strategy = Says(("parallel", ["a", "b"]))

    state = ran(pipeline(strategy, a=Writes("x", errors=[ValueError()]), b=Writes("y")))

    assert state == {"y": True}
    assert strategy.seen[1].failed_agents == ["a"]
    assert strategy.seen[1].completed_agents == ["b"]


def test_an_agent_returns_a_mapping_or_nothing() -> None:
    with pytest.raises(AgentResultError, match="Agent 'a' returned a list"):
        ran(pipeline(a=_Returns([1])))

    assert ran(pipeline(a=_Returns(None)), n=1) == {"n": 1}


class _Returns:
    def __init__(self, value: Any) -> None:
        self.value = value

    async def process(self, state: dict[str, Any]) -> Any:
        return self.value


def test_a_plain_agent_works_as_an_async_one_does() -> None:
    class Plain:
        def process(self, state: dict[str, Any]) -> dict[str, Any]:
            return {"doubled": state["n"] * 2}

    state = ran(pipeline(a=Plain()), n=4)

    assert state == {"n": 4, "doubled": 8}


def test_a_strategy_that_decides_nothing_is_named() -> None:
    class Silent(OrchestrationStrategy):
        async def decide(self, context: OrchestrationContext) -> OrchestrationDecision:
            return None  # type: ignore[return-value]  # what is tested

    with pytest.raises(InvalidOrchestrationError, match="Silent has to decide with an OrchestrationDecision"):
        ran(pipeline(Silent(), a=Writes("x")))
    with pytest.raises(InvalidOrchestrationError, match="not a NoneType"):
        asyncio.run(pipeline(Silent()).decide({}))


def test_a_run_that_never_ends_is_stopped() -> None:
    forever = RuleBasedStrategy([{"when": "true", "decision": "route", "targets": ["a"]}])
    agent = Writes("x")
    orchestrator = PipelineOrchestrator("p", forever, False, max_iterations=7)
    orchestrator.register_agent("a", agent)

    with pytest.raises(OrchestrationLimitError, match="more than 7 decisions"):
        ran(orchestrator)

    assert len(agent.seen) == 7


def test_retries_in_a_row_are_bounded_and_the_last_error_is_the_cause() -> None:
    stubborn = RuleBasedStrategy([{"when": "failed_agents", "decision": "retry", "targets": ["a"]}])
    agent = Writes("x", errors=[ValueError(str(number)) for number in range(9)])

    with pytest.raises(OrchestrationLimitError, match="more than 3 retries") as stopped:
        ran(pipeline(stubborn, a=agent))

    assert len(agent.seen) == 4
    assert str(stopped.value.__cause__) == "3"


def test_states_of_agents_are_their_own_words_or_available() -> None:
    class Speaks(Writes):
        def get_state(self) -> dict[str, Any]:
            return {"status": "busy"}

    strategy = Says()

    ran(pipeline(strategy, a=Speaks("x"), b=Writes("y")))

    assert strategy.seen[0].agent_states == {"a": {"status": "busy"}, "b": {"status": "available"}}


def test_a_decision_alone_runs_nobody_and_fills_in_what_it_is_not_given() -> None:
    agent, strategy = Writes("x"), Says(("route", ["a"]))
    orchestrator = pipeline(strategy, a=agent)

    decision = asyncio.run(orchestrator.decide({"run_id": "r", "ticket": 7, "retry_count": 2, "step_duration": 3}))

    assert (decision.target_agents, agent.seen) == (["a"], [])
    seen = strategy.seen[0]
    assert (seen.current_step, seen.available_agents, seen.retry_count) == ("start", ["a"], 2)
    assert seen.global_state == {"run_id": "r", "ticket": 7}
    assert seen.step_duration == timedelta(seconds=3)
    assert orchestrator.process_mining.events == [  # type: ignore[union-attr]
        ("r", "decision:route", "complete", {"reason": "told", "confidence": 1.0})
    ]


def test_a_decision_about_a_whole_context_takes_it_as_it_is() -> None:
    strategy, where = Says(), context("elsewhere")

    asyncio.run(pipeline(strategy, a=Writes("x")).decide(where))

    assert strategy.seen == [where]


@pytest.mark.parametrize("task", ["ticket", None, [1]])
def test_what_is_no_task_is_refused(task: Any) -> None:
    with pytest.raises(InvalidOrchestrationError, match="OrchestrationContext or a mapping"):
        asyncio.run(pipeline().decide(task))


def test_decisions_and_calls_are_recorded_under_their_run() -> None:
    orchestrator = pipeline(a=Writes("x", errors=[ValueError()]))
    strategy = RuleBasedStrategy([{"when": "failed_agents", "decision": "retry", "targets": ["a"], "reason": "again"}])
    orchestrator.strategy = strategy

    ran(orchestrator)

    recorder = orchestrator.process_mining
    assert isinstance(recorder, Recorder)
    assert {case for case, *_ in recorder.events} == {"r"}
    assert [(activity, lifecycle) for _, activity, lifecycle, _ in recorder.events] == [
        ("decision:route", "complete"),
        ("a", "start"),
        ("a", "ate_abort"),
        ("decision:retry", "complete"),
        ("a", "start"),
        ("a", "complete"),
        ("decision:end", "complete"),
    ]
    assert recorder.events[2][3] == {"error": "ValueError"}
    assert recorder.events[3][3] == {"reason": "again", "confidence": 1.0}
    assert (orchestrator.get_process_metrics(), orchestrator.export_process_model()) == (7, "<log>p</log>")


def test_without_process_mining_nothing_is_recorded_and_nothing_told() -> None:
    orchestrator = PipelineOrchestrator("p", enable_process_mining=False, mining=Recorder)
    orchestrator.register_agent("a", Writes("x"))

    assert ran(orchestrator) == {"x": True}
    assert orchestrator.process_mining is None
    assert orchestrator.get_process_metrics() is orchestrator.export_process_model() is None


def test_history_and_events_of_a_run_are_not_seen_by_another_tenant_or_run() -> None:
    orchestrator = pipeline(a=Writes("x"))
    with TenantContext("acme"):
        ran(orchestrator, "r")
        ran(orchestrator, "s")
        of_acme = (len(orchestrator.get_execution_history()), len(orchestrator.get_execution_history("r")))
        recorded = orchestrator.get_process_metrics()

    with TenantContext("zenith"):
        of_zenith = (orchestrator.get_execution_history(), orchestrator.get_execution_history("r"))
        other = orchestrator.get_process_metrics()

    assert (of_acme, recorded) == ((4, 2), 8)
    assert (of_zenith, other) == (([], []), 0)


def test_a_run_id_that_is_used_again_begins_anew() -> None:
    orchestrator = pipeline(a=Writes("x"))

    ran(orchestrator, "r")
    again = ran(orchestrator, "r")

    assert again == {"x": True}
    assert len(orchestrator.get_execution_history("r")) == 2


def test_what_a_caller_does_to_the_history_changes_nothing() -> None:
    orchestrator = pipeline(a=Writes("x"))
    ran(orchestrator)

    orchestrator.get_execution_history()[0]["decision"].clear()

    assert orchestrator.get_execution_history()[0]["decision"]["type"] == "route"


def test_an_agent_without_work_to_do_is_refused_and_an_unknown_one_forgotten_in_silence() -> None:
    orchestrator = pipeline()

    orchestrator.unregister_agent("nobody")

    with pytest.raises(InvalidOrchestrationError, match="no method process"):
        orchestrator.register_agent("a", object())  # type: ignore[arg-type]


@pytest.mark.parametrize("bounds", [{"max_iterations": 0}, {"max_retries": 0}])
def test_bounds_are_at_least_one(bounds: dict[str, int]) -> None:
    with pytest.raises(InvalidOrchestrationError):
        PipelineOrchestrator("p", **bounds)  # type: ignore[arg-type]
