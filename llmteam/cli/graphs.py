"""A segment as a picture: Mermaid for documents and web pages, text for terminals."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from llmteam.canvas.models import EdgeDefinition, SegmentDefinition, StepDefinition
from llmteam.canvas.phrases import count
from llmteam.canvas.teams import agents_of, part_id, teams_of

#: Shapes of Mermaid's flowcharts by step type; other types are boxes.
_SHAPES = {
    "condition": ("{", "}"),
    "human_task": ("([", "])"),
    "parallel_split": ("[/", "\\]"),
    "parallel_join": ("[\\", "/]"),
    "llm_agent": ("(", ")"),
    "team": ("[[", "]]"),
}
_ESCAPES = {'"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "#": "#35;", "`": "#96;", "|": "#124;", "\n": " "}


def mermaid(segment: SegmentDefinition) -> str:
    """The segment as a Mermaid flowchart. Ids get a prefix, because words like ``end`` mean something there."""
    segment = _with_agents(segment)
    lines = ["flowchart TD"]
    for step in _in_order(segment):
        opening, closing = _SHAPES.get(step.step_type, ("[", "]"))
        label = f"{_escaped(step.name or step.step_id)}<br/><small>{_escaped(step.step_type)}</small>"
        lines.append(f'    s_{step.step_id}{opening}"{label}"{closing}')
    known = {step.step_id for step in segment.steps}
    for edge in segment.edges:
        if {edge.source_step, edge.target_step} <= known:
            arrow = "-.->" if edge.source_port == "error" else "-->"
            label = _label(edge)
            shown = f'|"{_escaped(label)}"|' if label else ""
            lines.append(f"    s_{edge.source_step} {arrow}{shown} s_{edge.target_step}")
    return "\n".join(lines) + "\n"


def text(segment: SegmentDefinition) -> str:
    """The segment step by step, each with the edges that leave it."""
    size = f"{count(len(segment.steps), 'step')}, {count(len(segment.edges), 'edge')}"
    lines = [f"{segment.segment_id} {segment.version}: {size}", f"starts at {segment.resolve_entrypoint()}", ""]
    segment = _with_agents(segment)
    leaving: dict[str, list[EdgeDefinition]] = {}
    for edge in segment.edges:
        leaving.setdefault(edge.source_step, []).append(edge)
    seen: set[str] = set()
    for step in _in_order(segment):
        seen.add(step.step_id)
        lines.append(f"{step.step_id} ({step.step_type}){f'  {step.name}' if step.name else ''}")
        for edge in leaving.get(step.step_id, []):
            back = "  (back)" if edge.target_step in seen else ""
            port = "" if edge.target_port == "input" else f".{edge.target_port}"
            label = _label(edge)
            lines.append(f"  {f'[{label}] ' if label else ''}→ {edge.target_step}{port}{back}")
    return "\n".join(lines) + "\n"


def _with_agents(segment: SegmentDefinition) -> SegmentDefinition:
    """The segment with the agents of its teams, each between two edges."""
    steps, edges = list(segment.steps), list(segment.edges)
    for step in teams_of(segment):
        for agent in agents_of(step):
            own = part_id(step.step_id, agent.name)
            steps.append(StepDefinition(step_id=own, step_type=agent.step_type, name=agent.name))
            ways = ((step.step_id, own), (own, step.step_id))
            edges += [EdgeDefinition(source_step=source, target_step=target) for source, target in ways]
    return segment.model_copy(update={"steps": steps, "edges": edges, "entrypoint": segment.resolve_entrypoint()})


def _label(edge: EdgeDefinition) -> str:
    port = "" if edge.source_port == "output" else edge.source_port
    condition = f"if {edge.condition}" if edge.condition else ""
    return " ".join(filter(None, (port, condition)))


def _escaped(words: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in words)


def _in_order(segment: SegmentDefinition) -> Iterator[StepDefinition]:
    """Steps after those that lead to them, as far as loops allow; what nothing leads to comes last."""
    steps = {step.step_id: step for step in segment.steps}
    targets: dict[str, list[str]] = {}
    missing = dict.fromkeys(steps, 0)
    for edge in segment.edges:
        if edge.source_step in steps and edge.target_step in steps:
            targets.setdefault(edge.source_step, []).append(edge.target_step)
            missing[edge.target_step] += 1
    entry = segment.resolve_entrypoint()
    waiting = deque([entry] if entry in steps else [])
    rest = deque(segment.steps)
    done: set[str] = set()
    while waiting or rest:
        step_id = waiting.popleft() if waiting else _next_open(rest, done)
        if step_id is None:
            return
        if step_id in done:
            continue
        done.add(step_id)
        yield steps[step_id]
        for target in targets.get(step_id, []):
            missing[target] -= 1
            if missing[target] == 0:
                waiting.append(target)


def _next_open(rest: deque[StepDefinition], done: set[str]) -> str | None:
    """The next step that has not come yet, in the order of the document."""
    while rest:
        step_id = rest.popleft().step_id
        if step_id not in done:
            return step_id
    return None
