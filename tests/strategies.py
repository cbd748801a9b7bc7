"""Hypothesis strategies of whole sound segments: chains, branches, nested splits and joins, loops.

A segment is grown from blocks. A block has one way in and one way out, so that blocks nest and follow each other
without ever making a graph that validation refuses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from llmteam.canvas.models import EdgeDefinition, SegmentDefinition, SegmentParams, StepDefinition

#: One block as a plain value: what it is made of, before its steps have names.
Plan = tuple[Any, ...]

_STRATEGIES = ("all", "any", "first")


def _blocks(inner: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
    """Blocks of blocks. ``branch`` may end one of its ways in nothing; ``loop`` goes back from its own condition."""
    return st.one_of(
        st.tuples(st.just("chain"), st.lists(inner, min_size=1, max_size=4)),
        st.tuples(st.just("branch"), inner, inner | st.none()),
        st.tuples(st.just("choice"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("split"), st.sampled_from(_STRATEGIES), st.lists(inner, min_size=2, max_size=4)),
        st.tuples(st.just("loop"), inner),
        st.tuples(st.just("rescue"), inner),
    )


def plans(max_leaves: int = 8) -> st.SearchStrategy[Plan]:
    """Plans of segments, without names."""
    return st.recursive(st.just(("step",)), _blocks, max_leaves=max_leaves)


@dataclass
class _Growth:
    steps: list[StepDefinition] = field(default_factory=list)
    edges: list[EdgeDefinition] = field(default_factory=list)

    def step(self, step_type: str, **config: Any) -> str:
        step_id = f"{step_type}_{len(self.steps)}"
        self.steps.append(StepDefinition(step_id=step_id, step_type=step_type, config=config))
        return step_id

    def edge(self, source: str, target: str, port: str = "output", into: str = "input", condition: Any = None) -> None:
        self.edges.append(
            EdgeDefinition(
                source_step=source, source_port=port, target_step=target, target_port=into, condition=condition
            )
        )

    def grow(self, plan: Plan) -> tuple[str, str]:
        """Add the steps of ``plan``; the step where it begins and the one where it ends."""
        grow: Any = getattr(self, f"_{plan[0]}")
        ends: tuple[str, str] = grow(*plan[1:])
        return ends

    def _step(self) -> tuple[str, str]:
        step_id = self.step("transform")
        return step_id, step_id

    def _chain(self, parts: list[Plan]) -> tuple[str, str]:
        first, last = self.grow(parts[0])
        for part in parts[1:]:
            head, tail = self.grow(part)
            self.edge(last, head)
            last = tail
        return first, last

    def _branch(self, yes: Plan, no: Plan | None) -> tuple[str, str]:
        begin = self.step("condition", expression="default(flag, true)")
        end = self.step("transform")
        self._way(begin, "true", yes, end)
        if no is not None:
            self._way(begin, "false", no, end)
        return begin, end

    def _way(self, begin: str, port: str, plan: Plan, end: str, into: str = "input") -> None:
        head, tail = self.grow(plan)
        self.edge(begin, head, port)
        self.edge(tail, end, into=into)

    def _choice(self, ways: list[Plan]) -> tuple[str, str]:
        """Edges of one port with conditions; the last one is the else."""
        begin, end = self.step("transform"), self.step("transform")
        for number, way in enumerate(ways):
            head, tail = self.grow(way)
            last = number == len(ways) - 1
            self.edge(begin, head, condition=None if last else f"default(pick, {number}) == {number}")
            self.edge(tail, end)
        return begin, end

    def _split(self, strategy: str, ways: list[Plan]) -> tuple[str, str]:
        begin = self.step("parallel_split", branches=len(ways))
        end = self.step("parallel_join", merge_strategy=strategy, branches=max(2, len(ways)))
        for number, way in enumerate(ways, 1):
            self._way(begin, f"branch_{number}", way, end, into=f"branch_{number}")
        return begin, end

    def _loop(self, body: Plan) -> tuple[str, str]:
        begin = self.step("transform")
        head, tail = self.grow(body)
        check, end = self.step("condition", expression="default(again, false)"), self.step("transform")
        self.edge(begin, head)
        self.edge(tail, check)
        self.edge(check, begin, "true")
        self.edge(check, end, "false")
        return begin, end

    def _rescue(self, body: Plan) -> tuple[str, str]:
        """A step whose failure is taken up by its error edge."""
        risky, end = self.step("transform"), self.step("transform")
        self._way(risky, "output", body, end)
        self.edge(risky, end, "error")
        return risky, end


def segment_of(plan: Plan, *, params: SegmentParams | None = None, segment_id: str = "grown") -> SegmentDefinition:
    """The segment of a plan; its entrypoint is named."""
    growth = _Growth()
    entry, _ = growth.grow(plan)
    return SegmentDefinition(
        segment_id=segment_id,
        name="Grown",
        entrypoint=entry,
        steps=growth.steps,
        edges=growth.edges,
        params=params or SegmentParams(),
    )


def segments(max_leaves: int = 8) -> st.SearchStrategy[SegmentDefinition]:
    """Sound segments of up to some dozens of steps."""
    params = st.builds(
        SegmentParams,
        max_retries=st.integers(0, 3),
        parallel_execution=st.booleans(),
        max_visits=st.none() | st.integers(1, 5),
    )
    return st.builds(segment_of, plans(max_leaves), params=params)
