"""The shapes of the runs: small segments of every kind, each with an input, and how many of each are started."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from chaos.people import PERSON
from chaos.steps import CLIENT, LOOP, PROCESS, THREAD
from llmteam.canvas.models import EdgeDefinition, PortDefinition, SegmentDefinition, SegmentParams, StepDefinition

#: Stands for the label of a run in outputs that are known before it has one.
LABEL = "LABEL"

_Steps = Mapping[str, tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Outcome:
    """How a run ends: its status, what it gives, why it failed, and the names of its effects."""

    status: str
    outputs: Any
    error_type: str | None = None
    effects: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Shape:
    """A segment, its input beside the label, and its share of all runs.

    ``known`` is the outcome of what cannot be rehearsed in this process without ending it.
    """

    segment: SegmentDefinition
    share: float = 1.0
    most: int | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    known: Outcome | None = None

    @property
    def name(self) -> str:
        return self.segment.segment_id

    def input_for(self, label: str) -> dict[str, Any]:
        return {"label": label, "via": [], **self.input}


@dataclass(frozen=True)
class Case:
    """One run to start: ``at`` seconds after the beginning."""

    run_id: str
    tenant_id: str
    shape: Shape
    at: float

    @property
    def label(self) -> str:
        return self.run_id


def shapes(lease: float, width: int) -> list[Shape]:
    """All shapes. Slow steps take longer than ``lease`` seconds; the widest split has ``width`` branches."""
    return [
        Shape(_chain(), 5),
        Shape(_nested(), 4),
        Shape(_early("any"), 3),
        Shape(_early("first"), 2),
        Shape(_loop(), 4, input={"left": 3}),
        Shape(_choice("small"), 2, input={"n": 1}),
        Shape(_choice("large"), 2, input={"n": 9}),
        Shape(_caught(), 3),
        Shape(_retries(), 4),
        Shape(_wide(width), 2),
        Shape(_slow(lease * 1.6), 1, most=12),
        Shape(_effects(), 4),
        Shape(_hang(), 1, most=6),
        Shape(_fails(), 2),
        Shape(_approval(), 3),
        Shape(_poison(), 0, known=Outcome("failed", {}, "WorkerLostError", frozenset({"before"}))),
    ]


def cases(all_shapes: Sequence[Shape], count: int, seconds: float, seed: int) -> list[Case]:
    """``count`` runs, each shape among them, in bursts over ``seconds``; the same for the same seed."""
    chance = random.Random(f"cases {seed}")
    chosen = list(all_shapes)
    common = [shape for shape in all_shapes if shape.share]
    while len(chosen) < count:
        (shape,) = chance.choices(common, [shape.share for shape in common])
        if shape.most is None or chosen.count(shape) < shape.most:
            chosen.append(shape)
    chance.shuffle(chosen)
    # What kills its workers takes several leases to be found out.
    chosen.sort(key=lambda shape: shape.known is None)
    bursts = max(1, round(seconds / 2))
    moments = sorted(burst * seconds / bursts for burst in range(bursts) for _ in range(-(-count // bursts)))
    return [
        Case(f"{shape.name}-{seed}-{number:04d}", ("alpha", "beta")[number % 2], shape, at)
        for number, (shape, at) in enumerate(zip(chosen, moments[: len(chosen)], strict=True))
    ]


def segment(name: str, steps: _Steps, *ways: str) -> SegmentDefinition:
    """Steps by id with type and configuration; ``ways`` are edges, ``a.port -> b.port -> c``."""
    edges = []
    for way in ways:
        for source, target in pairwise(way.split(" -> ")):
            (one, _, leaving), (other, _, entering) = source.partition("."), target.partition(".")
            # A branch's own port is where it enters the join; it leaves by its output.
            leaving = "" if leaving.startswith("branch") and steps[one][0] != "parallel_split" else leaving
            edges.append(
                EdgeDefinition(
                    source_step=one,
                    source_port=leaving or "output",
                    target_step=other,
                    target_port=entering if steps[other][0] == "parallel_join" else "input",
                )
            )
    return SegmentDefinition(
        segment_id=name,
        name=name.replace("_", " ").capitalize(),
        entrypoint="begin",
        params=SegmentParams(timeout_seconds=None),
        steps=[_step(step_id, kind, config) for step_id, (kind, config) in steps.items()],
        edges=edges,
    )


def _step(step_id: str, kind: str, config: dict[str, Any]) -> StepDefinition:
    extra: dict[str, Any] = {}
    if kind == "parallel_join":
        extra["inputs"] = [PortDefinition(port_id=f"branch_{number + 1}") for number in range(config["branches"])]
    return StepDefinition(step_id=step_id, step_type=kind, config=config, **extra)


def transform(expression: str = "data") -> tuple[str, dict[str, Any]]:
    return "transform", {"expression": expression}


def _split(branches: int) -> tuple[str, dict[str, Any]]:
    return "parallel_split", {"branches": branches}


def _join(branches: int, strategy: str = "all") -> tuple[str, dict[str, Any]]:
    return "parallel_join", {"branches": branches, "merge_strategy": strategy}


def _post(path: str) -> tuple[str, dict[str, Any]]:
    return "http_action", {"client_ref": CLIENT, "path": "/{label}/" + path, "method": "POST"}


_BEGIN = {"begin": transform()}


def _chain() -> SegmentDefinition:
    steps = {
        **_BEGIN,
        "work": (PROCESS, {"seconds": 0.05}),
        "post": _post("post"),
        "note": (LOOP, {"seconds": 0.1}),
        "pay": (PROCESS, {"effect": "pay", "seconds": 0.05}),
        "last": transform("{'label': label, 'via': via}"),
    }
    return segment("chain", steps, " -> ".join(steps))


def _nested() -> SegmentDefinition:
    steps = {
        **_BEGIN,
        "outer": _split(2),
        "inner": _split(3),
        "a": (LOOP, {"seconds": 0.1}),
        "b": (PROCESS, {"seconds": 0.1}),
        "c": (THREAD, {}),
        "met": _join(3),
        "pick": transform("{'label': data[0].label, 'via': [one.via for one in data]}"),
        "post": _post("post"),
        "all": _join(2),
        "last": transform("[one.via for one in data]"),
    }
    return segment(
        "nested",
        steps,
        "begin -> outer.branch_1 -> inner.branch_1 -> a -> met.branch_1",
        "inner.branch_2 -> b -> met.branch_2",
        "inner.branch_3 -> c -> met.branch_3 -> pick -> all.branch_1",
        "outer.branch_2 -> post -> all.branch_2 -> last",
    )


def _early(strategy: str) -> SegmentDefinition:
    """Branches that agree on everything that is looked at afterwards: which of them comes first is anybody's guess."""
    steps = {
        **_BEGIN,
        "split": _split(3),
        "quick": (LOOP, {"seconds": 0.05}),
        "slow": (PROCESS, {"seconds": 0.6}),
        "bad": (PROCESS, {"permanent": True}),
        "join": _join(3, strategy),
        "last": transform("data[0].label"),
    }
    return segment(
        strategy,
        steps,
        "begin -> split.branch_1 -> quick -> join.branch_1 -> last",
        "split.branch_2 -> slow -> join.branch_2",
        "split.branch_3 -> bad -> join.branch_3",
    )


def _loop() -> SegmentDefinition:
    steps = {
        **_BEGIN,
        "tick": transform("{'label': label, 'left': left - 1, 'via': via}"),
        "post": _post("round-{left}"),
        "work": (PROCESS, {}),
        "again": ("condition", {"expression": "left > 0"}),
        "last": transform("via"),
    }
    return segment("loop", steps, "begin -> tick -> post -> work -> again", "again.true -> tick", "again.false -> last")


def _choice(name: str) -> SegmentDefinition:
    """One of two ways is dead, with all that lies on it; the join takes what is alive."""
    steps = {
        **_BEGIN,
        "choose": ("condition", {"expression": "n > 5"}),
        **{f"{way}_{number}": (LOOP, {}) for way in ("yes", "no") for number in (1, 2, 3)},
        "work": (PROCESS, {}),
        "join": _join(2),
        "last": transform("data[0].via"),
    }
    return segment(
        f"choice_{name}",
        steps,
        "begin -> choose",
        "choose.true -> yes_1 -> yes_2 -> yes_3 -> join.branch_1",
        "choose.false -> no_1 -> no_2 -> no_3 -> work -> join.branch_2 -> last",
    )


def _caught() -> SegmentDefinition:
    steps = {
        **_BEGIN,
        "broken": (PROCESS, {"permanent": True}),
        "never": (LOOP, {}),
        "last": transform("error_type"),
    }
    return segment("caught", steps, "begin -> broken -> never", "broken.error -> last")


def _retries() -> SegmentDefinition:
    steps = {
        **_BEGIN,
        "flaky": (PROCESS, {"fail": 2, "effect": "flaky"}),
        "flaky_too": (THREAD, {"fail": 1}),
        "post": _post("post"),
        "last": transform("via"),
    }
    return segment("retries", steps, " -> ".join(steps))


def _wide(width: int) -> SegmentDefinition:
    numbers = range(1, width + 1)
    kinds: list[tuple[str, dict[str, Any]]] = [(LOOP, {"seconds": 0.1}), (PROCESS, {}), (THREAD, {"seconds": 0.05})]
    steps = {
        **_BEGIN,
        "split": _split(width),
        **{f"w_{number}": kinds[number % 3] for number in numbers},
        "join": _join(width),
        "last": transform("[one.via[0] for one in data]"),
    }
    branches = [f"split.branch_{number} -> w_{number} -> join.branch_{number}" for number in numbers]
    return segment("wide", steps, "begin -> split", *branches, "join -> last")


def _slow(seconds: float) -> SegmentDefinition:
    steps = {
        **_BEGIN,
        "long": (THREAD, {"seconds": seconds, "effect": "long"}),
        "longer": (PROCESS, {"seconds": seconds, "effect": "longer"}),
        "last": transform("via"),
    }
    return segment("slow", steps, " -> ".join(steps))


def _effects() -> SegmentDefinition:
    steps = {
        **_BEGIN,
        "reserve": (PROCESS, {"effect": "reserve", "seconds": 0.4}),
        "post": _post("post"),
        "ship": (PROCESS, {"effect": "ship", "seconds": 0.4}),
        "last": transform("via"),
    }
    return segment("effects", steps, " -> ".join(steps))


def _hang() -> SegmentDefinition:
    patience = {"hang": 3.0, "timeout_seconds": 1.0, "retry_count": 8}
    steps = {**_BEGIN, "deaf": (THREAD, patience), "deaf_too": (PROCESS, patience), "last": transform("via")}
    return segment("hang", steps, " -> ".join(steps))


def _fails() -> SegmentDefinition:
    steps = {
        **_BEGIN,
        "split": _split(2),
        "sibling": (LOOP, {"seconds": 0.5}),
        "broken": (PROCESS, {"permanent": True}),
        "join": _join(2),
        "last": transform(),
    }
    return segment(
        "fails",
        steps,
        "begin -> split.branch_1 -> sibling -> join.branch_1 -> last",
        "split.branch_2 -> broken -> join.branch_2",
    )


def _approval() -> SegmentDefinition:
    """A person decides in one branch; what they decide is taken once, and the join waits for it."""
    steps = {
        **_BEGIN,
        "split": _split(2),
        "ask": ("human_task", {"task_type": "approval", "title": "Ship {label}?", "assignee_ref": PERSON}),
        "work": (PROCESS, {"seconds": 0.1}),
        "join": _join(2),
        "pick": transform("{'label': data[1].label, 'via': [data[0].responder, data[1].via]}"),
        "ship": (PROCESS, {"effect": "ship"}),
        "last": transform("via"),
    }
    return segment(
        "approval",
        steps,
        "begin -> split.branch_1 -> ask",
        "ask.approved -> join.branch_1",
        "split.branch_2 -> work -> join.branch_2 -> pick -> ship -> last",
    )


def _poison() -> SegmentDefinition:
    steps = {
        **_BEGIN,
        "before": (PROCESS, {"effect": "before"}),
        "poison": (PROCESS, {"poison": True}),
        "last": transform("via"),
    }
    return segment("poison", steps, " -> ".join(steps))
