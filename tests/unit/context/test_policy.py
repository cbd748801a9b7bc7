"""Who may see what: the table of roles, the order of the rules, and that nothing leaks up or sideways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.context import (
    ROLE_AGENT,
    ROLE_GROUP_ORCH,
    ROLE_PIPELINE_ORCH,
    ROLE_SYSTEM,
    SENSITIVITY_VISIBILITY_MAP,
    ContextAccessPolicy,
    ContextScope,
    SensitivityLevel,
    VisibilityLevel,
    get_visibility_for_sensitivity,
    is_visibility_allowed,
)
from llmteam.context.policy import Ancestor

PUBLIC, INTERNAL, CONFIDENTIAL, SECRET, TOP_SECRET = SensitivityLevel
KNOWN = (ROLE_AGENT, ROLE_PIPELINE_ORCH, ROLE_GROUP_ORCH, ROLE_SYSTEM)
IDS = st.sampled_from(["a", "b", "pipe", "group", ""])
ROLES = st.one_of(st.sampled_from(KNOWN), st.text(max_size=8))
SETS = st.sets(IDS)
ANCESTORS = st.lists(st.builds(Ancestor, IDS, st.sampled_from(ContextScope)), max_size=3)
POLICIES = st.builds(
    ContextAccessPolicy,
    default_visibility=st.sampled_from(VisibilityLevel),
    denied_viewers=SETS,
    allowed_viewers=SETS,
    sealed_fields=st.sets(st.sampled_from(["card", "cvv"])),
    sensitivity=st.sampled_from(SensitivityLevel),
)

TABLE = {
    ROLE_AGENT: set(),
    ROLE_PIPELINE_ORCH: {PUBLIC, INTERNAL, CONFIDENTIAL},
    ROLE_GROUP_ORCH: {PUBLIC, INTERNAL},
    ROLE_SYSTEM: {PUBLIC, INTERNAL, CONFIDENTIAL},
    "root": set(),
    "": set(),
    "AGENT": set(),
    "Pipeline_Orch": set(),
}


@pytest.mark.parametrize("role", TABLE)
@pytest.mark.parametrize("sensitivity", SensitivityLevel)
def test_the_role_decides_about_a_context_that_stands_alone(role: str, sensitivity: SensitivityLevel) -> None:
    allowed, reason = ContextAccessPolicy(sensitivity=sensitivity).can_access("somebody", role)

    assert allowed is (sensitivity in TABLE[role])
    assert reason


def test_reasons_name_the_rule() -> None:
    policy = ContextAccessPolicy(sealed_fields={"card"}, denied_viewers={"evil"})

    assert "forbidden" in policy.can_access("other", ROLE_AGENT)[1]
    assert "sealed" in policy.can_access("orch", ROLE_PIPELINE_ORCH, "card")[1]
    assert "denied" in policy.can_access("evil", ROLE_PIPELINE_ORCH)[1]
    assert "not known" in policy.can_access("orch", "admin")[1]
    assert "secret" in ContextAccessPolicy(sensitivity=SECRET).can_access("orch", ROLE_SYSTEM)[1]
    assert "self_only" in ContextAccessPolicy(VisibilityLevel.SELF_ONLY).can_access("orch", ROLE_SYSTEM)[1]


def test_an_allowed_viewer_is_spared_the_deny_list_and_nothing_else() -> None:
    policy = ContextAccessPolicy(denied_viewers={"orch"}, allowed_viewers={"orch"}, sealed_fields={"card"})

    assert policy.can_access("orch", ROLE_PIPELINE_ORCH)[0]
    assert not policy.can_access("orch", ROLE_AGENT)[0]
    assert not policy.can_access("orch", ROLE_PIPELINE_ORCH, "card")[0]
    policy.set_sensitivity(CONFIDENTIAL)
    assert not policy.can_access("orch", ROLE_GROUP_ORCH)[0]
    policy.set_sensitivity(SECRET)
    assert not policy.can_access("orch", ROLE_PIPELINE_ORCH)[0]


def test_the_last_word_about_a_viewer_counts() -> None:
    policy = ContextAccessPolicy()

    policy.allow_access_to("orch")
    policy.deny_access_to("orch")
    assert not policy.can_access("orch", ROLE_PIPELINE_ORCH)[0]
    policy.allow_access_to("orch")
    assert policy.can_access("orch", ROLE_PIPELINE_ORCH)[0]


@pytest.mark.parametrize("sensitivity", SensitivityLevel)
def test_visibility_is_never_wider_than_the_sensitivity_permits(sensitivity: SensitivityLevel) -> None:
    widest = get_visibility_for_sensitivity(sensitivity)

    assert widest is SENSITIVITY_VISIBILITY_MAP[sensitivity]
    assert is_visibility_allowed(VisibilityLevel.SELF_ONLY, sensitivity)
    assert is_visibility_allowed(widest, sensitivity)
    assert is_visibility_allowed(VisibilityLevel.HIERARCHY, sensitivity) is (sensitivity is PUBLIC)
    for asked in VisibilityLevel:
        effective = ContextAccessPolicy(asked, sensitivity=sensitivity).visibility
        assert is_visibility_allowed(effective, sensitivity)


def test_below_orchestrators_the_direct_one_sees_and_others_only_what_the_hierarchy_may() -> None:
    pipe, group = Ancestor("pipe", ContextScope.PIPELINE), Ancestor("group", ContextScope.GROUP)
    above = [pipe, group]
    internal, public = ContextAccessPolicy(), ContextAccessPolicy(VisibilityLevel.HIERARCHY, sensitivity=PUBLIC)

    assert internal.can_access("pipe", ROLE_PIPELINE_ORCH, ancestors=above)[0]
    assert not internal.can_access("group", ROLE_GROUP_ORCH, ancestors=above)[0]
    assert public.can_access("group", ROLE_GROUP_ORCH, ancestors=above)[0]
    for policy in (internal, public):
        assert policy.can_access("anybody", ROLE_SYSTEM, ancestors=above)[0]
        assert not policy.can_access("other", ROLE_PIPELINE_ORCH, ancestors=above)[0]
        assert not policy.can_access("group", ROLE_PIPELINE_ORCH, ancestors=above)[0]
        assert not policy.can_access("pipe", ROLE_GROUP_ORCH, ancestors=above)[0]


@given(POLICIES, IDS, ANCESTORS, st.sampled_from(["card", "cvv", "note", None]))
def test_no_policy_lets_an_agent_see_another(
    policy: ContextAccessPolicy, viewer: str, ancestors: list[Ancestor], name: str | None
) -> None:
    assert not policy.can_access(viewer, ROLE_AGENT, name, ancestors=ancestors)[0]


@given(POLICIES, IDS, ROLES, ANCESTORS)
def test_no_policy_lets_anybody_else_read_what_is_sealed(
    policy: ContextAccessPolicy, viewer: str, role: str, ancestors: list[Ancestor]
) -> None:
    for name in policy.sealed_fields:
        assert not policy.can_access(viewer, role, name, ancestors=ancestors)[0]
    asked = {*policy.sealed_fields, "note"}
    assert not policy.check_access(viewer, role, asked, ancestors=ancestors).fields_granted & policy.sealed_fields


@given(POLICIES, IDS, ROLES, st.lists(st.builds(Ancestor, IDS, st.sampled_from(ContextScope)), min_size=1, max_size=3))
def test_only_who_stands_above_sees_below(
    policy: ContextAccessPolicy, viewer: str, role: str, ancestors: list[Ancestor]
) -> None:
    scope = {ROLE_PIPELINE_ORCH: ContextScope.PIPELINE, ROLE_GROUP_ORCH: ContextScope.GROUP}.get(role)

    if policy.can_access(viewer, role, ancestors=ancestors)[0] and role != ROLE_SYSTEM:
        assert scope is not None
        assert Ancestor(viewer, scope) in ancestors
        assert ancestors[0] == Ancestor(viewer, scope) or policy.visibility is VisibilityLevel.HIERARCHY


@given(POLICIES, IDS, ROLES, ANCESTORS)
def test_a_higher_sensitivity_never_shows_more(
    policy: ContextAccessPolicy, viewer: str, role: str, ancestors: list[Ancestor]
) -> None:
    seen = []
    for level in SensitivityLevel:
        policy.set_sensitivity(level)
        seen.append(policy.can_access(viewer, role, ancestors=ancestors)[0])

    assert seen == sorted(seen, reverse=True)


@given(POLICIES, IDS, ROLES, ANCESTORS, st.sampled_from(VisibilityLevel))
def test_a_hierarchy_never_shows_more_than_the_role_alone(
    policy: ContextAccessPolicy, viewer: str, role: str, ancestors: list[Ancestor], level: VisibilityLevel
) -> None:
    if policy.can_access(viewer, role, ancestors=ancestors)[0]:
        assert policy.can_access(viewer, role)[0]


@given(POLICIES)
def test_a_policy_survives_as_json(policy: ContextAccessPolicy) -> None:
    again = ContextAccessPolicy.from_dict(policy.to_dict())

    assert again == policy
    assert repr(again) == repr(policy)


def test_fields_are_split_into_those_granted_and_those_denied() -> None:
    policy = ContextAccessPolicy(sealed_fields={"card"})

    mixed = policy.check_access("orch", ROLE_PIPELINE_ORCH, ["card", "status"])
    refused = policy.check_access("other", ROLE_AGENT, ["card", "status"])
    fine = policy.check_access("orch", ROLE_PIPELINE_ORCH, ["status"])

    assert (mixed.allowed, mixed.fields_granted, mixed.fields_denied) == (False, {"status"}, {"card"})
    assert (refused.allowed, refused.fields_granted, refused.fields_denied) == (False, set(), {"card", "status"})
    assert (fine.allowed, fine.fields_granted, fine.fields_denied) == (True, {"status"}, set())
    assert policy.check_access("orch", ROLE_PIPELINE_ORCH).allowed


def test_the_sets_of_a_policy_are_views() -> None:
    given_names = {"card"}
    policy = ContextAccessPolicy(sealed_fields=given_names)

    given_names.clear()

    assert policy.sealed_fields == {"card"}
    assert not hasattr(policy.sealed_fields, "clear")
    with pytest.raises(AttributeError):
        policy.sealed_fields = set()  # type: ignore[misc]


def test_one_text_is_no_set_of_names() -> None:
    with pytest.raises(TypeError, match="not one text"):
        ContextAccessPolicy(sealed_fields="card")
    with pytest.raises(ValueError, match="huge"):
        ContextAccessPolicy(sensitivity="huge")  # type: ignore[arg-type]
