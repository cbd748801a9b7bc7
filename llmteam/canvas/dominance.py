"""Dominators, natural loops and regions of a directed graph, over plain ids and without recursion.

The dominator search is the iterative one of Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm"
(2001); natural loops are those of Aho, Sethi and Ullman: an edge whose target dominates its source closes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Adjacency = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Walk:
    """A depth-first walk: reverse postorder and the edges that point back to a node still on the path."""

    order: tuple[str, ...]
    retreating: frozenset[tuple[str, str]]


def walk(entry: str, successors: Adjacency) -> Walk:
    """Depth-first from ``entry``; nodes that it does not reach are left out."""
    postorder: list[str] = []
    retreating: set[tuple[str, str]] = set()
    on_path = {entry}
    seen = {entry}
    stack = [(entry, iter(successors[entry]))]
    while stack:
        node, rest = stack[-1]
        for following in rest:
            if following in on_path:
                retreating.add((node, following))
            elif following not in seen:
                seen.add(following)
                on_path.add(following)
                stack.append((following, iter(successors[following])))
                break
        else:
            stack.pop()
            on_path.discard(node)
            postorder.append(node)
    return Walk(tuple(reversed(postorder)), frozenset(retreating))


def immediate_dominators(order: Sequence[str], predecessors: Adjacency) -> dict[str, str]:
    """The immediate dominator of each node of ``order`` (reverse postorder); the entry's is itself."""
    rank = {node: position for position, node in enumerate(order)}
    entry = order[0]
    idom = {entry: entry}
    changed = True
    while changed:
        changed = False
        for node in order[1:]:
            known = [p for p in predecessors[node] if p in idom]
            best = known[0]
            for other in known[1:]:
                best = _meet(best, other, idom, rank)
            if idom.get(node) != best:
                idom[node] = best
                changed = True
    return idom


def _meet(left: str, right: str, idom: Mapping[str, str], rank: Mapping[str, int]) -> str:
    while left != right:
        while rank[left] > rank[right]:
            left = idom[left]
        while rank[right] > rank[left]:
            right = idom[right]
    return left


def dominates(upper: str, lower: str, idom: Mapping[str, str], rank: Mapping[str, int]) -> bool:
    """Whether every path from the entry to ``lower`` passes ``upper``."""
    while rank[lower] > rank[upper]:
        lower = idom[lower]
    return lower == upper


def loop_body(header: str, tails: Iterable[str], predecessors: Adjacency) -> frozenset[str]:
    """The natural loop of ``header``: what reaches one of ``tails`` without passing the header."""
    body = {header}
    stack = [tail for tail in tails if tail != header]
    while stack:
        node = stack.pop()
        if node not in body:
            body.add(node)
            stack.extend(predecessors[node])
    return frozenset(body)


def region_before(
    exit_: str, entry: str, successors: Adjacency, predecessors: Adjacency, rank: Mapping[str, int]
) -> frozenset[str]:
    """What lies between ``entry`` and ``exit_`` and leads nowhere but to ``exit_``; both ends left out.

    The graph must be acyclic and ``rank`` a topological numbering of it.
    """
    candidates: set[str] = set()
    stack = [p for p in predecessors[exit_] if p != entry]
    while stack:
        node = stack.pop()
        if node not in candidates:
            candidates.add(node)
            stack.extend(p for p in predecessors[node] if p != entry)
    inside: set[str] = set()
    for node in sorted(candidates, key=lambda n: -rank[n]):
        if all(following == exit_ or following in inside for following in successors[node]):
            inside.add(node)
    return frozenset(inside)
