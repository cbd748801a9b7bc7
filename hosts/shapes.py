"""The runs of these trials: most shapes of :mod:`chaos.shapes`, steps that outlast a cut, and steps under a limit."""

from __future__ import annotations

from collections.abc import Iterable

from chaos.shapes import Shape, segment, shapes, transform
from chaos.steps import PROCESS, THREAD
from hosts.steps import CALLED, CALLED_APART, LIMIT
from llmteam.canvas.models import SegmentDefinition

#: Poison and handlers that hang say nothing about networks.
_OMITTED = frozenset({"poison", "hang", "slow"})
#: Branches of the widest split, and limited steps of a run.
_WIDTH, _LIMITED = 12, 12
LONG, LIMITED, PROBE = "long", "limited", "probe"


def all_shapes(seconds: float, *, apart: bool) -> dict[str, Shape]:
    """By name. Long steps take ``seconds``; ``apart`` says whether workers have processes for steps."""
    known = [shape for shape in shapes(1.0, _WIDTH) if shape.name not in _OMITTED]
    own = [Shape(_long(seconds)), Shape(_limited()), Shape(_probe(apart=apart))]
    if not apart:
        known = [Shape(_in_threads(shape.segment), input=shape.input) for shape in known]
    return {shape.name: shape for shape in (*known, *own)}


def common(found: Iterable[Shape]) -> list[Shape]:
    """Those that are started again and again."""
    return [shape for shape in found if shape.name not in (LONG, PROBE)]


def _long(seconds: float) -> SegmentDefinition:
    """A step that is under way when its host is cut off, and ends after that."""
    steps = {
        "begin": transform(),
        "long": (CALLED, {"seconds": seconds, "effect": "long"}),
        "last": transform("via"),
    }
    return segment(LONG, steps, " -> ".join(steps))


def _limited() -> SegmentDefinition:
    names = [f"w_{number}" for number in range(1, _LIMITED + 1)]
    steps = {
        "begin": transform(),
        "split": ("parallel_split", {"branches": _LIMITED}),
        **{name: (CALLED, {"limits": LIMIT}) for name in names},
        "join": ("parallel_join", {"branches": _LIMITED, "merge_strategy": "all"}),
        "last": transform("[one.via[0] for one in data]"),
    }
    branches = [f"split.branch_{number} -> {name} -> join.branch_{number}" for number, name in enumerate(names, 1)]
    return segment(LIMITED, steps, "begin -> split", *branches, "join -> last")


def _probe(*, apart: bool) -> SegmentDefinition:
    """Steps of both kinds, so that whoever takes them can be told to work again."""
    kinds = (CALLED, CALLED_APART) if apart else (CALLED,)
    steps = {
        "begin": transform(),
        **{f"call_{number}": (kind, {"seconds": 0.1}) for number, kind in enumerate(kinds, 1)},
        "last": transform("via"),
    }
    return segment(PROBE, steps, " -> ".join(steps))


def _in_threads(definition: SegmentDefinition) -> SegmentDefinition:
    steps = [
        step.model_copy(update={"step_type": THREAD}) if step.step_type == PROCESS else step
        for step in definition.steps
    ]
    return definition.model_copy(update={"steps": steps})
