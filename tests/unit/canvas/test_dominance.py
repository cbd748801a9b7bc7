"""Dominators, loops and regions against their definitions, on random graphs of a few nodes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmteam.canvas.dominance import Neighbours, dominates, immediate_dominators, loop_body, region_before, walk

Adjacency = dict[str, list[str]]


@st.composite
def digraphs(draw: st.DrawFn) -> Adjacency:
    """Any edges between up to eight nodes, ``0`` the entry."""
    names = [str(number) for number in range(draw(st.integers(1, 8)))]
    pairs = draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=16))
    return {name: [target for source, target in pairs if source == name] for name in names}


def turned(after: Adjacency, order: Sequence[str]) -> Adjacency:
    return {name: [source for source in order if name in after[source]] for name in order}


def reachable(after: Adjacency, start: str, *, without: str | None = None) -> set[str]:
    seen: set[str] = set()
    stack = [start] if start != without else []
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(n for n in after[node] if n != without)
    return seen


@given(digraphs())
def test_a_walk_reaches_what_can_be_reached_each_node_once(after: Adjacency) -> None:
    found = walk("0", after)

    assert len(set(found.order)) == len(found.order)
    assert set(found.order) == reachable(after, "0")


@given(digraphs())
def test_the_order_is_topological_but_for_retreating_edges(after: Adjacency) -> None:
    found = walk("0", after)

    rank = {node: place for place, node in enumerate(found.order)}
    backwards = {(s, t) for s in found.order for t in after[s] if rank[t] <= rank[s]}
    assert backwards == found.retreating


def test_nodes_that_do_not_depend_on_each_other_keep_the_given_order() -> None:
    assert walk("s", {"s": ["a", "b", "c"], "a": [], "b": [], "c": []}).order == ("s", "a", "b", "c")


@given(digraphs())
def test_a_dominator_is_on_every_path_from_the_entry(after: Adjacency) -> None:
    order = walk("0", after).order
    rank = {node: place for place, node in enumerate(order)}
    idom = immediate_dominators(order, turned(after, order))

    for upper in order:
        beyond = set(order) - reachable(after, "0", without=upper)
        assert {lower for lower in order if dominates(upper, lower, idom, rank)} == beyond
    assert all(idom[node] != node for node in order[1:])


@given(digraphs())
def test_a_natural_loop_is_what_reaches_its_tail_without_passing_its_header(after: Adjacency) -> None:
    found = walk("0", after)
    rank = {node: place for place, node in enumerate(found.order)}
    before = turned(after, found.order)
    idom = immediate_dominators(found.order, before)

    for tail, header in found.retreating:
        if dominates(header, tail, idom, rank):
            body = loop_body(header, [tail], before)
            assert body == {header} | {n for n in found.order if tail in reachable(after, n, without=header)}
            assert all(dominates(header, node, idom, rank) for node in body)


@settings(max_examples=300)
@given(digraphs(), st.data())
def test_a_region_is_what_comes_before_its_exit_and_leads_nowhere_else(after: Adjacency, data: st.DataObject) -> None:
    found = walk("0", after)
    rank = {node: place for place, node in enumerate(found.order)}
    before = turned(after, found.order)
    idom = immediate_dominators(found.order, before)
    assume(all(dominates(header, tail, idom, rank) for tail, header in found.retreating))
    exit_ = data.draw(st.sampled_from(found.order))
    entry = idom[exit_]
    arriving = [node for node in before[exit_] if not dominates(exit_, node, idom, rank)]

    region = region_before(exit_, entry, arriving, Neighbours(after, before))

    def leads_only_there(node: str) -> bool:
        way = reachable(after, node, without=exit_)
        return entry not in way and all(set(after[n]) and exit_ in reachable(after, n) for n in way)

    between = {n for n in found.order if dominates(entry, n, idom, rank)} - {entry, exit_}
    outside_loop = {n for n in between if not dominates(exit_, n, idom, rank)}
    assert region == {node for node in outside_loop if leads_only_there(node)}


def test_a_loop_that_is_left_in_the_middle_lies_in_the_region_as_a_whole() -> None:
    after = {"s": ["h", "x"], "h": ["check"], "check": ["fix", "j"], "fix": ["h"], "x": ["j"], "j": []}
    before = turned(after, list(after))

    assert region_before("j", "s", ["check", "x"], Neighbours(after, before)) == {"h", "check", "fix", "x"}
