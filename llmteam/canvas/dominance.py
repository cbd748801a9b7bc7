"""Dominators, natural loops and regions of a directed graph, over plain ids and without recursion.

The dominator search is the iterative one of Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm"
(2001); natural loops are those of Aho, Sethi and Ullman: an edge whose target dominates its source closes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Adjacency = Mapping[str, Sequence[str]]


class Neighbours(NamedTuple):
    """Both directions of one graph."""

    after: Adjacency
    before: Adjacency


@dataclass(frozen=True)
class Walk:
    """A depth-first walk: reverse postorder and the edges that point back to a node still on the path."""

    order: tuple[str, ...]
    retreating: frozenset[tuple[str, str]]


def walk(entry: str, successors: Adjacency) -> Walk:
    """Depth-first from ``entry``; nodes that it does not reach are left out.

    The last successor is walked first, so that among nodes that do not depend on each other the order is the given one.
    """
    postorder: list[str] = []
    retreating: set[tuple[str, str]] = set()
    on_path = {entry}
    seen = {entry}
    stack = [(entry, reversed(successors[entry]))]
    while stack:
        node, rest = stack[-1]
        for following in rest:
            if following in on_path:
                retreating.add((node, following))
            elif following not in seen:
                seen.add(following)
                on_path.add(following)
                stack.append((following, reversed(successors[following])))
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


def region_before(exit_: str, entry: str, arriving: Iterable[str], around: Neighbours) -> frozenset[str]:
    """What lies between ``entry`` and ``exit_`` and leads nowhere but to ``exit_``; both ends left out.

    ``arriving`` are the nodes from which forward edges reach ``exit_``. A loop lies inside as a whole or not at all.
    """
    inside: set[str] = set()
    stack = [node for node in arriving if node != entry]
    while stack:
        node = stack.pop()
        if node not in inside:
            inside.add(node)
            stack.extend(p for p in around.before[node] if p not in (entry, exit_))
    leaving = [node for node in inside if any(n != exit_ and n not in inside for n in around.after[node])]
    while leaving:
        node = leaving.pop()
        if node in inside:
            inside.discard(node)
            leaving.extend(p for p in around.before[node] if p in inside)
    return frozenset(inside)
