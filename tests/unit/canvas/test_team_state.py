"""What a team carries from turn to turn: whoever is named works once, and no answer is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmteam import codec
from llmteam.canvas.handlers.team_state import TeamState, goes_on, tokens_of
from llmteam.roles.models import DECISION_TYPES, OrchestrationDecision

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("a", "b", "c", "d")
AGENTS = dict.fromkeys(NAMES, "")

DECISIONS = st.builds(
    OrchestrationDecision,
    st.sampled_from(DECISION_TYPES),
    st.lists(st.sampled_from(NAMES), unique=True),
    st.just("because"),
    st.just(1.0),
)
#: For each agent: an object to merge, a value, a failure, or nothing at all; and the tokens that it tells of.
ANSWERS = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(st.sampled_from(["object", "value", "error", "port", "none"]), st.integers(0, 9)),
)


def arrived(name: str, kind: str, tokens: int) -> dict[str, Any]:
    """What comes to the end of a turn from an agent."""
    if kind == "error":
        return {f"{name}.error": {"error_type": "ValueError"}}
    found: dict[str, Any] = {f"{name}.@annotations": {"usage": {"input_tokens": tokens}}}
    if kind == "port":
        found[f"{name}.approved"] = {"by": "ann"}
    elif kind != "none":
        found[f"{name}.output"] = {f"from_{name}": tokens} if kind == "object" else tokens
    return found


@given(st.lists(st.tuples(DECISIONS, ANSWERS), max_size=6), st.integers(1, 3))
def test_whoever_is_named_works_once_and_every_answer_is_in_the_state(
    course: list[tuple[OrchestrationDecision, dict[str, tuple[str, int]]]], width: int
) -> None:
    team, tokens, turns = TeamState.begun({"topic": "robots"}), 0, 0
    for decision, given_answers in course:
        if not team.follow(decision, decision.target_agents, width, NOW):
            assert not goes_on(decision, decision.target_agents)
            continue
        worked: list[str] = []
        while team.queue:
            working = team.next_turn()
            assert len(working) <= width
            answers = {name: given_answers.get(name, ("value", 1)) for name in working}
            carried = codec.loads(codec.dumps(team.to_dict()))
            assert TeamState.of(carried) == team
            team.end_turn(
                working, {key: one for name in working for key, one in arrived(name, *answers[name]).items()}, 1.0
            )
            worked, turns = [*worked, *working], turns + 1
            tokens += sum(count for kind, count in answers.values() if kind != "error")
            for name, (kind, count) in answers.items():
                shown = {"object": {f"from_{name}": count}, "value": {name: count}}.get(kind, {})
                assert shown.items() <= team.state.items()
                assert (name in team.errors) == (kind == "error")
        failed = bool(team.errors)
        if decision.decision_type != "skip":
            expected = decision.target_agents
            assert worked == (expected[: len(worked)] if failed else expected)
    assert (team.tokens, team.turns, team.seconds) == (tokens, turns, float(turns))
    context = team.context(AGENTS)
    assert set(context.agent_states) == set(NAMES)
    assert (context.error_rate > 0) == (team.failures > 0)
    assert team.state["topic"] == "robots"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["usage", "input_tokens", "output_tokens", "x"]), inner)
        ),
    )
)
def test_tokens_are_read_from_whatever_a_handler_annotates(annotations: Any) -> None:
    assert tokens_of(annotations) >= 0
