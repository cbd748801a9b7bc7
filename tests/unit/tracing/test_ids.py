"""Ids that every process derives alike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmteam.tracing import ids

TEXT = st.text("abcXYZ019._-:", min_size=1, max_size=12)
TRACE, SPAN = st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1)


def test_a_run_has_the_trace_that_it_has_always_had() -> None:
    assert f"{ids.trace_id('acme', 'run-1'):032x}" == "eaa15e03a9afb5865601bd42b81c6d67"
    assert f"{ids.run_span_id('acme', 'run-1'):016x}" == "377f61a35aba725c"
    assert f"{ids.span_id('acme', 'run-1', 'step', 'a', 1, 1):016x}" == "e80d90cc44c121da"


@given(st.tuples(TEXT, TEXT), st.tuples(TEXT, TEXT))
def test_only_one_run_of_one_tenant_has_a_trace(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (ids.trace_id(*one) == ids.trace_id(*other)) == (one == other)


@given(st.lists(st.tuples(TEXT, st.integers(1, 100), st.integers(1, 100)), unique=True, max_size=20))
def test_each_claim_of_each_step_has_a_span_of_its_own(claims: list[tuple[str, int, int]]) -> None:
    made = {ids.span_id("acme", "run-1", "step", *claim) for claim in claims}

    assert len(made) == len(claims)
    assert all(0 < one < 2**64 for one in made)


@given(TRACE, SPAN, st.booleans())
def test_a_traceparent_is_read_as_it_was_written(trace: int, span: int, sampled: bool) -> None:
    origin = ids.Origin(trace, span, sampled)

    assert ids.origin_of(origin.traceparent) == origin


@given(st.one_of(st.none(), st.integers(), st.text(), st.from_regex(r"00-0{32}-[0-9a-f]{16}-01", fullmatch=True)))
def test_what_is_no_traceparent_names_nothing(text: object) -> None:
    assert ids.origin_of(text) is None
