from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmteam.context import (
    ContextAccessError,
    ContextAccessPolicy,
    ContextManager,
    ContextPropagationConfig,
    ContextScope,
    HierarchicalContext,
    InvalidContextError,
    SecureAgentContext,
    SensitivityLevel,
    VisibilityLevel,
    dump_hierarchy,
    load_hierarchy,
)
from llmteam.crypto import MasterKeys
from llmteam.keys import MemoryKeyStore, TenantKeys

AGENT, PIPELINE, GROUP = ContextScope


def family() -> tuple[ContextManager, HierarchicalContext, HierarchicalContext]:
    """A group with a pipeline that has two agents."""
    manager = ContextManager()
    group = manager.create_context(GROUP, "group")
    pipeline = manager.create_child(group, "pipe", PIPELINE)
    for name in ("one", "two"):
        secure = SecureAgentContext(name, name.title())
        secure.set_sealed("card", f"4111-{name}-secret")
        manager.create_child(pipeline, name, AGENT, secure_context=secure)
    return manager, group, pipeline


# -- who sees whom


def test_the_orchestrator_sees_its_agents_and_those_above_what_the_policy_lets() -> None:
    _, _, pipeline = family()

    own = pipeline.get_visible_children("pipe", "pipeline_orch")
    above = pipeline.get_visible_children("group", "group_orch")

    assert [view["status"] for view in own.values()] == ["idle", "idle"]
    assert [view["access"] for view in above.values()] == ["denied", "denied"]
    assert pipeline.access_count == 2


@pytest.mark.parametrize(
    ("viewer", "role"),
    [
        ("one", "agent"),
        ("two", "pipeline_orch"),
        ("pipe", "agent"),
        ("pipe", "group_orch"),
        ("group", "pipeline_orch"),
        ("other", "pipeline_orch"),
        ("pipe", "admin"),
        ("", "pipeline_orch"),
    ],
)
def test_nobody_else_sees_the_children_not_even_their_ids(viewer: str, role: str) -> None:
    _, _, pipeline = family()

    with pytest.raises(ContextAccessError) as caught:
        pipeline.get_visible_children(viewer, role)

    assert "one" not in str(caught.value).replace(viewer, "")
    assert pipeline.access_count == 0


def test_an_agent_that_hangs_in_a_hierarchy_is_seen_from_there_only() -> None:
    _, _, pipeline = family()
    secure = pipeline.children["one"].secure_context
    assert secure is not None

    assert "status" in secure.get_visible_context("pipe", "pipeline_orch")
    assert secure.get_visible_context("foreign", "pipeline_orch")["access"] == "denied"
    assert secure.get_visible_context("two", "agent")["access"] == "denied"
    assert "status" in secure.get_visible_context("one", "agent")


def test_a_group_sees_public_agents_that_show_themselves_to_the_hierarchy() -> None:
    manager, _, pipeline = family()
    policy = ContextAccessPolicy(VisibilityLevel.HIERARCHY, sensitivity=SensitivityLevel.PUBLIC)
    manager.create_child(pipeline, "open", AGENT, secure_context=SecureAgentContext("open", "O", access_policy=policy))

    seen = pipeline.get_visible_children("group", "group_orch")

    assert seen["open"]["status"] == "idle"
    assert seen["one"]["access"] == "denied"


def test_a_child_without_a_context_of_an_agent_gives_a_summary_without_data() -> None:
    manager, group, _ = family()
    manager.create_child("group/pipe", "plain", AGENT, data={"secret": "xyz"})

    seen = group.children["pipe"].get_visible_children("pipe", "pipeline_orch")["plain"]

    assert set(seen) == {"scope", "context_id", "children_count", "updated_at", "access_count"}


# -- what is inherited


def test_a_child_has_copies_of_what_moves_down_and_reads_what_comes_later() -> None:
    manager = ContextManager()
    parent = manager.create_context(PIPELINE, "pipe")
    parent.data["global_config"] = {"region": "eu"}
    child = manager.create_child(parent, "one", AGENT)
    parent.data["shared_state"] = [1]
    parent.data["other"] = "own"

    child.data["global_config"]["region"] = "us"

    assert parent.data["global_config"] == {"region": "eu"}
    assert child.get("shared_state") == [1]
    child.get("shared_state").append(2)
    assert parent.data["shared_state"] == [1]
    assert child.get("other") is None
    assert child.get("other", 3) == 3


def test_what_is_sealed_private_or_aggregated_is_never_inherited() -> None:
    manager = ContextManager()
    secure = SecureAgentContext("pipe", "P", access_policy=ContextAccessPolicy(sealed_fields={"shared_state"}))
    parent = manager.create_context(PIPELINE, "pipe", secure_context=secure)
    parent.data.update(shared_state="sealed", _own="private", fine=1)
    parent.aggregated["status"] = "failed"

    child = manager.create_child(parent, "one", AGENT, inherit="all")

    assert child.get("fine") == 1
    assert [child.get(name) for name in ("shared_state", "_own", "status")] == [None, None, None]
    manager.propagate_down("pipe")
    assert child.data == {}


def test_writing_in_a_child_changes_nothing_above() -> None:
    manager, group, pipeline = family()

    pipeline.children["one"].data["shared_state"] = "mine"

    assert pipeline.get("shared_state") is None
    assert group.data == {}
    assert pipeline.children["two"].get("shared_state") is None
    assert manager.get_context("one") is pipeline.children["one"]


def test_siblings_share_no_object() -> None:
    manager, _, pipeline = family()
    pipeline.data["shared_state"] = {"list": []}

    manager.propagate_down("group/pipe")
    pipeline.children["one"].data["shared_state"]["list"].append("from one")

    assert pipeline.children["two"].data["shared_state"] == {"list": []}


def test_moving_down_reaches_everybody_below_on_request() -> None:
    manager, group, pipeline = family()
    group.data["global_config"] = 1

    manager.propagate_down("group")
    assert "global_config" in pipeline.data
    assert "global_config" not in pipeline.children["one"].data
    manager.propagate_down("group", recursive=True)
    assert pipeline.children["one"].data["global_config"] == 1


# -- what moves up


def test_values_of_several_children_become_one_by_their_rules() -> None:
    manager, _, pipeline = family()
    for name, errors, confidence, status in (("one", 3, 0.8, "running"), ("two", 5, 0.6, "failed")):
        pipeline.children[name].data.update(error_count=errors, confidence=confidence, status=status)
        manager.propagate_up(name)

    assert pipeline.aggregated == {"error_count": 8, "confidence": pytest.approx(0.7), "status": "failed"}
    assert pipeline.data == {}


def test_moving_up_again_counts_nothing_twice_and_a_recovery_shows() -> None:
    manager, _, pipeline = family()
    one = pipeline.children["one"]
    one.data.update(error_count=3, status="failed")
    for _ in range(5):
        manager.propagate_up("one")
    assert (pipeline.aggregated["error_count"], pipeline.aggregated["status"]) == (3, "failed")

    one.data.update(error_count=4, status="completed")
    manager.propagate_up("one")

    assert (pipeline.aggregated["error_count"], pipeline.aggregated["status"]) == (4, "completed")


def test_a_child_that_is_removed_takes_its_share_along() -> None:
    manager, _, pipeline = family()
    for name, errors in (("one", 3), ("two", 5)):
        pipeline.children[name].data["error_count"] = errors
        manager.propagate_up(name)

    manager.remove_context("two")

    assert pipeline.aggregated["error_count"] == 3
    assert manager.get_context("two") is None


def test_an_agents_own_context_speaks_for_it() -> None:
    manager, group, pipeline = family()
    secure = pipeline.children["one"].secure_context
    assert secure is not None
    secure.update_status("error")
    secure.increment_error_count()

    manager.propagate_up("one", recursive=True)

    assert pipeline.aggregated["status"] == "error"
    assert group.aggregated["error_count"] == 1


def test_a_sealed_or_private_field_never_moves_up() -> None:
    manager = ContextManager(ContextPropagationConfig(propagate_up=["card"]))
    pipeline = manager.create_context(PIPELINE, "pipe")
    secure = SecureAgentContext("one", "One")
    secure.set_sealed("card", "4111")
    child = manager.create_child(pipeline, "one", AGENT, secure_context=secure)
    child.data["card"] = "4111"

    manager.propagate_up("one")

    assert pipeline.aggregated == {}
    assert "4111" not in json.dumps(child.to_dict())
    with pytest.raises(InvalidContextError, match="never move"):
        manager.config.add_propagate_up("_private")


@pytest.mark.parametrize("bad", ["three", None, True, float("nan"), [1]])
def test_a_value_that_does_not_fit_its_rule_moves_nothing(bad: Any) -> None:
    manager, _, pipeline = family()
    one = pipeline.children["one"]
    one.data.update(status="running", error_count=2)
    manager.propagate_up("one")
    one.data.update(status="failed", error_count=bad)

    with pytest.raises(InvalidContextError, match="error_count"):
        manager.propagate_up("one")

    assert (pipeline.aggregated["status"], pipeline.aggregated["error_count"]) == ("running", 2)


def test_two_configurations_that_say_the_same_are_equal_and_show_what_they_say() -> None:
    config = ContextPropagationConfig(["x"], [], {"x": "sum"})

    assert config == ContextPropagationConfig(["x"], [], {"x": "sum"})
    assert config != ContextPropagationConfig()
    assert "propagate_up=['x']" in repr(config)


def test_the_configuration_is_what_was_asked_for() -> None:
    config = ContextPropagationConfig()
    assert config.propagate_up == ["status", "confidence", "error_count"]
    assert config.propagate_down == ["global_config", "shared_state"]
    assert [config.get_aggregation_rule(name) for name in ("confidence", "error_count", "status", "x")] == [
        *("avg", "sum", "worst", "last")
    ]

    config.add_propagate_up("cost", "max")
    config.add_propagate_down("budget")
    config.remove_propagate_up("status")
    config.remove_propagate_down("shared_state")

    assert config.propagate_up == ["confidence", "error_count", "cost"]
    assert config.propagate_down == ["global_config", "budget"]
    assert config.get_aggregation_rule("status") == "last"
    with pytest.raises(InvalidContextError, match="there is no rule 'median'"):
        config.set_aggregation_rule("cost", "median")


# -- places


def test_ids_count_below_one_parent_and_paths_everywhere() -> None:
    manager, _, _ = family()
    manager.create_context(PIPELINE, "second")
    other = manager.create_child("second", "one", AGENT)

    assert manager.get_context("second/one") is other
    assert manager.get_context("group/pipe/one") is not other
    with pytest.raises(InvalidContextError, match="2 contexts have the id 'one'"):
        manager.get_context("one")
    with pytest.raises(InvalidContextError, match="has a child 'one' already"):
        manager.create_child("second", "one", AGENT)
    with pytest.raises(InvalidContextError, match="there is a root context"):
        manager.create_context(PIPELINE, "second")


def test_a_slash_in_an_id_makes_no_other_path() -> None:
    manager = ContextManager()
    manager.create_context(PIPELINE, "a/b")
    manager.create_context(PIPELINE, "a")
    child = manager.create_child("a", "b", AGENT)

    assert manager.get_context("a/b") is child
    assert set(manager.get_root_contexts()) == {"a/b", "a"}


@pytest.mark.parametrize(("above", "below"), [(AGENT, AGENT), (AGENT, PIPELINE), (PIPELINE, GROUP), (GROUP, GROUP)])
def test_a_child_has_a_narrower_scope(above: ContextScope, below: ContextScope) -> None:
    manager = ContextManager()
    manager.create_context(above, "above")

    with pytest.raises(ValueError, match="cannot stand below"):
        manager.create_child("above", "below", below)

    assert manager.get_all_contexts().keys() == {"above"}


def test_cycles_foreign_places_and_endless_depths_are_refused() -> None:
    outer, inner = HierarchicalContext("outer", PIPELINE), HierarchicalContext("inner", PIPELINE)
    outer.set_child_context("inner", inner)

    for parent, child in ((outer, outer), (inner, outer), (HierarchicalContext("third", PIPELINE), inner)):
        with pytest.raises(InvalidContextError):
            parent.set_child_context(child.context_id, child)
    with pytest.raises(InvalidContextError, match="under the id"):
        outer.set_child_context("wrong", HierarchicalContext("right", AGENT))
    for level in range(14):
        deeper = HierarchicalContext(f"level-{level}", PIPELINE)
        inner.set_child_context(deeper.context_id, deeper)
        inner = deeper
    with pytest.raises(InvalidContextError, match="at most 16 levels"):
        inner.set_child_context("last", HierarchicalContext("last", PIPELINE))


def test_unknown_places_are_errors_where_something_is_put_and_nothing_where_it_is_looked_for() -> None:
    manager = ContextManager()

    for act in (
        lambda: manager.create_context(AGENT, "one", parent_id="nobody"),
        lambda: manager.create_child("nobody", "one", AGENT),
        lambda: manager.propagate_up("nobody"),
    ):
        with pytest.raises(InvalidContextError, match="there is no context"):
            act()
    assert manager.get_context("nobody") is None
    manager.remove_context("nobody")


def test_removing_takes_the_whole_subtree() -> None:
    manager, group, _ = family()

    manager.remove_context("group/pipe")
    assert set(manager.get_all_contexts()) == {"group"}
    assert group.children == {}
    manager.remove_context("group")
    assert manager.get_root_contexts() == {}


def test_a_hierarchy_survives_as_json() -> None:
    manager, group, pipeline = family()
    group.data["global_config"] = {"region": "eu"}
    pipeline.children["one"].data["error_count"] = 2
    for child in pipeline.children.values():
        child.secure_context = None
    manager.propagate_up("one", recursive=True)

    document = json.loads(json.dumps(dump_hierarchy(group)))
    again = load_hierarchy(document)

    assert dump_hierarchy(again) == document
    assert again.children["pipe"].children["one"].path == "group/pipe/one"
    with pytest.raises(InvalidContextError):
        load_hierarchy({"format": 1})


def test_a_stored_hierarchy_keeps_what_is_sealed_sealed() -> None:
    _, group, pipeline = family()
    own = TenantKeys(MemoryKeyStore(), MasterKeys([("m", b"k" * 32)])).vault("acme")
    for child in pipeline.children.values():
        assert child.secure_context is not None
        child.secure_context.use_vault(own)

    document = json.loads(json.dumps(dump_hierarchy(group)))
    again = load_hierarchy(document, vault=own).children["pipe"].children["one"].secure_context

    assert "4111" not in json.dumps(document)
    assert again is not None
    assert again.get_sealed("card", "one") == "4111-one-secret"
    assert again.get_visible_context("foreign", "pipeline_orch")["access"] == "denied"
    assert "status" in again.get_visible_context("pipe", "pipeline_orch")


class Family(RuleBasedStateMachine):
    """Whatever happens in a hierarchy: sums are those of the children that are there, and nobody sees sideways."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = ContextManager()
        self.pipes = [self.manager.create_context(PIPELINE, name) for name in ("p", "q")]
        self.told: dict[str, int] = {}

    @rule(pipe=st.integers(0, 1), agent=st.sampled_from("abc"))
    def join(self, pipe: int, agent: str) -> None:
        if agent not in self.pipes[pipe].children:
            secure = SecureAgentContext(agent, agent)
            secure.set_sealed("card", f"sealed-{agent}")
            self.manager.create_child(self.pipes[pipe], agent, AGENT, secure_context=secure)

    @rule(pipe=st.integers(0, 1), agent=st.sampled_from("abc"))
    def leave(self, pipe: int, agent: str) -> None:
        path = f"{self.pipes[pipe].context_id}/{agent}"
        if agent in self.pipes[pipe].children:
            self.manager.remove_context(path)
            self.told.pop(path, None)

    @rule(pipe=st.integers(0, 1), agent=st.sampled_from("abc"), errors=st.integers(0, 9), times=st.integers(1, 3))
    def tell(self, pipe: int, agent: str, errors: int, times: int) -> None:
        child = self.pipes[pipe].children.get(agent)
        if child is not None:
            child.data["error_count"] = errors
            for _ in range(times):
                self.manager.propagate_up(child.path)
            self.told[child.path] = errors

    @invariant()
    def nothing_counts_twice(self) -> None:
        for pipe in self.pipes:
            mine = [errors for path, errors in self.told.items() if path.startswith(f"{pipe.context_id}/")]
            assert pipe.aggregated.get("error_count", 0) == sum(mine)

    @invariant()
    def nobody_sees_sideways(self) -> None:
        for pipe in self.pipes:
            foreign = "q" if pipe.context_id == "p" else "p"
            for child in pipe.children.values():
                assert child.secure_context is not None
                for viewer, role in ((foreign, "pipeline_orch"), ("z", "agent"), (foreign, "group_orch")):
                    assert child.secure_context.get_visible_context(viewer, role)["access"] == "denied"
            assert "sealed-" not in json.dumps(pipe.get_visible_children(pipe.context_id, "pipeline_orch"))


TestFamily = Family.TestCase


@given(st.lists(st.tuples(st.integers(-100, 100), st.sampled_from(["idle", "running", "failed", "odd"])), min_size=1))
def test_aggregates_are_those_of_the_latest_values(values: list[tuple[int, str]]) -> None:
    manager = ContextManager()
    pipeline = manager.create_context(PIPELINE, "pipe")
    for number, (errors, status) in enumerate(values):
        data = {"error_count": errors, "status": status}
        manager.create_child(pipeline, f"agent-{number}", AGENT, data=data)
        manager.propagate_up(f"agent-{number}")

    assert pipeline.aggregated["error_count"] == sum(errors for errors, _ in values)
    assert (pipeline.aggregated["status"] == "failed") is ("failed" in {status for _, status in values})
