"""Pictures of a report as SVG that needs nothing else: the process map, and where time went as bars. Pure.

Colours are classes of the page around them, so that they follow its light and its dark form.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from llmteam.mining.waits import Cause

#: What is drawn at most; the rarest are left out.
STEPS, EDGES = 60, 150
_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 150, 40, 30, 56, 24
_LETTERS = 18
#: How far from the boxes an edge passes them, and how many such edges stand beside each other.
_BESIDE, _LANES = 22, 6
Edge = tuple[str, str]
Places = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture, and how much of the whole it leaves out."""

    svg: str
    left_out: int = 0


def process_map(steps: Mapping[str, int], edges: Mapping[Edge, int], ident: str) -> Drawing:
    """Steps as boxes with how often they completed, and how often runs went from one to another.

    ``ident`` makes the ids in the picture unique in its page.
    """
    every = Counter(steps)
    for source, target in edges:
        every.update({source: 0, target: 0})
    shown = [name for name, _ in sorted(every.items(), key=lambda one: (-one[1], one[0]))[:STEPS]]
    inside = {edge: times for edge, times in edges.items() if {*edge} <= set(shown)}
    drawn = dict(sorted(inside.items(), key=lambda one: (-one[1], one[0]))[:EDGES])
    places = _places(shown, drawn)
    lanes = _lanes(places, drawn)
    ways = {edge: _way(places, edge, lanes.get(edge, 0)) for edge in drawn}
    across = [x for x, _ in places.values()] + [place[0] for _, place in ways.values()]
    left = min(across, default=0) - 2 * _MARGIN
    wide = max((*across, *(x + _WIDTH for x, _ in places.values())), default=0) + 2 * _MARGIN - left
    high = max((y for _, y in places.values()), default=0) + _HEIGHT + _MARGIN
    most = max(drawn.values(), default=1)
    parts = [
        f'<svg role="img" aria-labelledby="{ident}-t {ident}-d" viewBox="{left} 0 {wide} {high}" width="{wide}">',
        f'<title id="{ident}-t">Process map</title>',
        f'<desc id="{ident}-d">{escape(_in_words(drawn))}</desc>',
        f'<defs><marker id="{ident}-a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"',
        ' markerUnits="userSpaceOnUse" orient="auto"><path class="arrow" d="M0 0 8 4 0 8z"/></marker></defs>',
        *(_edge(edge, ways[edge], times, most, ident) for edge, times in drawn.items()),
        *(_box(places[name], name, every[name]) for name in shown),
        "</svg>",
    ]
    return Drawing("\n".join(parts), len(every) - len(shown) + len(edges) - len(drawn))


def _in_words(edges: Mapping[Edge, int]) -> str:
    return "; ".join(f"{a} to {b}, {times:,} times" for (a, b), times in edges.items()) or "no run went on from a step"


def _places(steps: Sequence[str], edges: Iterable[Edge]) -> dict[str, tuple[int, int]]:
    """Where each box stands: layer by layer, below what leads to it as far as loops allow."""
    following: dict[str, list[str]] = {name: [] for name in steps}
    for source, target in edges:
        if source != target:
            following[source].append(target)
    layer = _layers(steps, following)
    rows: dict[int, list[str]] = {}
    for name in sorted(steps, key=lambda one: layer[one]):
        rows.setdefault(layer[name], []).append(name)
    widest = max(map(len, rows.values()), default=1)
    places: dict[str, tuple[int, int]] = {}
    for number, names in rows.items():
        left = _MARGIN + (widest - len(names)) * (_WIDTH + _ACROSS) // 2
        for column, name in enumerate(names):
            places[name] = (left + column * (_WIDTH + _ACROSS), _MARGIN + number * (_HEIGHT + _DOWN))
    return places


def _layers(steps: Sequence[str], following: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The longest way to each step along edges that close no cycle."""
    onward = _without_cycles(steps, following)
    missing = Counter(target for targets in onward.values() for target in targets)
    layer = dict.fromkeys(steps, 0)
    waiting = deque(name for name in steps if not missing[name])
    while waiting:
        name = waiting.popleft()
        for target in onward[name]:
            layer[target] = max(layer[target], layer[name] + 1)
            missing[target] -= 1
            if not missing[target]:
                waiting.append(target)
    return layer


def _without_cycles(steps: Sequence[str], following: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The edges that a walk does not find to lead back to where it is, from steps that nothing leads to first."""
    targets = {target for each in following.values() for target in each}
    onward: dict[str, list[str]] = {name: [] for name in steps}
    done: set[str] = set()
    for first in sorted(steps, key=lambda name: name in targets):
        stack = [] if first in done else [(first, iter(following[first]))]
        way = {first}
        while stack:
            name, rest = stack[-1]
            target = next(rest, None)
            if target is None:
                stack.pop()
                way.discard(name)
                done.add(name)
            elif target not in way:
                onward[name].append(target)
                if target not in done:
                    way.add(target)
                    stack.append((target, iter(following[target])))
    return onward


def _box(place: tuple[int, int], name: str, times: int) -> str:
    x, y = place
    short = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
    return (
        f"<g><title>{escape(name)}: completed {times:,} times</title>"
        f'<rect class="box" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
        f'<text class="name" x="{x + _WIDTH // 2}" y="{y + 17}">{escape(short)}</text>'
        f'<text class="count" x="{x + _WIDTH // 2}" y="{y + 32}">{times:,}</text></g>'
    )


def _way(places: Places, edge: Edge, lane: int) -> tuple[str, tuple[int, int]]:
    """The path of an edge and where its label stands.

    To the next layer it goes straight down, further down it passes the boxes between on the left, and up on the right;
    ``lane`` sets those apart that pass on the same side.
    """
    (ax, ay), (bx, by) = (places[name] for name in edge)
    if by - ay == _HEIGHT + _DOWN:
        x, y, to, bend = ax + _WIDTH // 2, ay + _HEIGHT, bx + _WIDTH // 2, _DOWN // 2
        return f"M{x} {y}C{x} {y + bend} {to} {by - bend} {to} {by}", ((x + to) // 2, y + bend)
    passed = [x for x, y in places.values() if min(ay, by) <= y <= max(ay, by)]
    if by > ay:
        start, end, beside = ax, bx, min(passed) - _BESIDE * (lane + 1)
    else:
        start, end, beside = ax + _WIDTH, bx + _WIDTH, max(passed) + _WIDTH + _BESIDE * (lane + 1)
    # A cubic reaches three quarters of the way to its control points.
    bends = [one + (beside - one) * 4 // 3 for one in (start, end)]
    down = _HEIGHT // 2 if ay != by else _HEIGHT // 4
    y, to = ay + down, by + _HEIGHT - down
    return f"M{start} {y}C{bends[0]} {y} {bends[1]} {to} {end} {to}", (beside, (y + to) // 2)


def _lanes(places: Places, edges: Iterable[Edge]) -> dict[Edge, int]:
    """For each edge how many that are shorter pass on its side; a few lanes are used in turn."""

    def reach(edge: Edge) -> int:
        return places[edge[1]][1] - places[edge[0]][1]

    aside = sorted((edge for edge in edges if reach(edge) != _HEIGHT + _DOWN), key=lambda edge: abs(reach(edge)))
    used: Counter[bool] = Counter()
    lanes = {}
    for edge in aside:
        side = reach(edge) > 0
        lanes[edge] = used[side] % _LANES
        used[side] += 1
    return lanes


def _edge(edge: Edge, way: tuple[str, tuple[int, int]], times: int, most: int, ident: str) -> str:
    path, (x, y) = way
    width = 1 + 3 * math.log1p(times) / math.log1p(most)
    return (
        f"<g><title>{escape(edge[0])} to {escape(edge[1])}: {times:,} times</title>"
        f'<path class="edge" d="{path}" stroke-width="{width:.1f}" marker-end="url(#{ident}-a)"/>'
        f'<text class="times" x="{x}" y="{y + 4}">{times:,}</text></g>'
    )


def bars(rows: Sequence[tuple[str, Mapping[Cause, float]]], ident: str) -> str:
    """One bar for each row, its causes side by side, as long as its seconds are beside those of the longest row."""
    longest = max((sum(causes.values()) for _, causes in rows), default=0) or 1.0
    high = 26 * len(rows) + 8
    parts = [
        f'<svg role="img" aria-labelledby="{ident}-t" viewBox="0 0 640 {high}" width="640">',
        f'<title id="{ident}-t">Where the time went, by activity and cause</title>',
    ]
    for number, (name, causes) in enumerate(rows):
        y, x = 26 * number + 4, 170.0
        short = name if len(name) <= _LETTERS + 4 else name[: _LETTERS + 3] + "…"
        parts.append(f'<text class="row" x="160" y="{y + 14}">{escape(short)}</text>')
        for cause, seconds in causes.items():
            width = 460 * seconds / longest
            if width > 0:
                what = f"{name}: {cause.says}, {seconds:,.1f} s"
                parts.append(
                    f'<rect class="c-{cause.value}" x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="18">'
                    f"<title>{escape(what)}</title></rect>"
                )
                x += width
    return "\n".join([*parts, "</svg>"])
