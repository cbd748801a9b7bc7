"""Segments as values: steps, ports and edges, and the checks that need neither catalog nor graph.

Documents with the keys of llmteam-ai (``type``, ``ports``, ``from``, ``to``, …) are understood; writing gives one
spelling, that of the attributes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from llmteam import codec
from llmteam.canvas.documents import CanvasModel, Number, Problem, each, parse_document, renamed
from llmteam.errors import NotJSONError

_ID = re.compile(r"[a-z][a-z0-9_]{0,254}")


class PortDefinition(CanvasModel):
    """A named place where values enter or leave a step. ``data_type`` is a hint for people and tools."""

    port_id: StrictStr
    data_type: StrictStr = "any"
    required: StrictBool = True
    description: StrictStr = ""

    @classmethod
    def _in_our_keys(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"port_id": data}
        return renamed(data, {"name": "port_id", "type": "data_type"})


class StepPosition(CanvasModel):
    """Where an editor draws the step."""

    x: Number
    y: Number


class StepUIMetadata(CanvasModel):
    """How an editor draws the step."""

    color: StrictStr | None = None
    icon: StrictStr | None = None
    collapsed: StrictBool = False


class StepDefinition(CanvasModel):
    """One step: which type does the work, with which configuration, between which ports.

    Ports that are not given are one called ``input`` and one called ``output``; those of the type come on top.
    """

    step_id: StrictStr
    step_type: StrictStr
    name: StrictStr = ""
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: list[PortDefinition] = Field(default_factory=lambda: [PortDefinition(port_id="input")])
    outputs: list[PortDefinition] = Field(default_factory=lambda: [PortDefinition(port_id="output")])
    position: StepPosition | None = None
    ui: StepUIMetadata | None = None

    @property
    def retry_count(self) -> int | None:
        """Retries after the first attempt, when the configuration says so."""
        value = self.config.get("retry_count")
        return value if _is_count(value) else None

    @property
    def timeout_seconds(self) -> float | None:
        """Seconds that one attempt may take, when the configuration says so."""
        value = self.config.get("timeout_seconds")
        return float(value) if value is not None and _is_duration(value) else None

    @classmethod
    def _in_our_keys(cls, data: Any) -> Any:
        data = renamed(data, {"type": "step_type", "input_ports": "inputs", "output_ports": "outputs"})
        if not isinstance(data, Mapping):
            return data
        step = dict(data)
        ports = step.get("ports")
        if isinstance(ports, Mapping):
            del step["ports"]
            for theirs, ours in (("input", "inputs"), ("output", "outputs")):
                if theirs in ports:
                    step.setdefault(ours, ports[theirs])
        for side in ("inputs", "outputs"):
            if step.get(side, side) is None:
                del step[side]
            elif side in step:
                step[side] = each(step[side], PortDefinition)
        return step


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


class EdgeDefinition(CanvasModel):
    """A way from one step's output port to another's input port, open when ``condition`` (if any) holds."""

    source_step: StrictStr
    source_port: StrictStr = "output"
    target_step: StrictStr
    target_port: StrictStr = "input"
    condition: StrictStr | None = None

    @classmethod
    def _in_our_keys(cls, data: Any) -> Any:
        names = {"from_step": "source_step", "to_step": "target_step", "from_port": "source_port"}
        return renamed(data, {"from": "source_step", "to": "target_step", "to_port": "target_port", **names})


class SegmentParams(CanvasModel):
    """Defaults of a segment's runs. ``timeout_seconds`` bounds the whole run, waiting for people left out."""

    max_retries: StrictInt = Field(default=3, ge=0)
    timeout_seconds: Number | None = 300
    parallel_execution: StrictBool = False
    max_visits: StrictInt | None = Field(default=None, ge=1)


class SegmentDefinition(CanvasModel):
    """A workflow graph. Sound when :meth:`validate` finds nothing; runners and stores refuse it otherwise."""

    version: StrictStr = "1.0"
    segment_id: StrictStr
    name: StrictStr
    description: StrictStr = ""
    entrypoint: StrictStr | None = None
    params: SegmentParams = Field(default_factory=SegmentParams)
    steps: list[StepDefinition]
    edges: list[EdgeDefinition] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def _in_our_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        segment = dict(data)
        for key, kind in (("steps", StepDefinition), ("edges", EdgeDefinition)):
            if key in segment:
                segment[key] = each(segment[key], kind)
        return segment

    def to_json(self, indent: int | None = 2) -> str:
        """The document as JSON text. Raises :class:`NotJSONError` that names what JSON cannot carry."""
        document = self.to_dict()
        codec.check(document)
        return json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read JSON text.

        Raises :class:`SegmentSyntaxError` with line and column for text that is not JSON, else as
        :meth:`from_dict`.
        """
        return cls.from_dict(parse_document(text))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema (draft 2020-12) of segment documents, for editors and other writers."""
        schema = cls.model_json_schema()
        for part in (schema, *schema.get("$defs", {}).values()):
            part.pop("additionalProperties", None)
        port = schema["$defs"]["PortDefinition"]
        schema["$defs"]["PortDefinition"] = {"anyOf": [{"type": "string", "description": "The port's id."}, port]}
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the canonical document: equal content, equal hash, wherever it was read from."""
        return codec.digest(codec.canonical(self.to_dict()))

    def validate(self) -> list[str]:  # type: ignore[override]
        """Every problem for which a runner of this process would refuse the segment, with its place; empty when sound.

        Of a step type that this process does not know, the configuration is not looked at: a worker may know it.
        """
        # The checks of types and graph stand above the values that they check, and need not be loaded to read them.
        validator = import_module("llmteam.canvas.validation").SegmentValidator()
        return [str(message) for message in validator.validate(self, strict=False).errors]

    def problems(self) -> Iterator[Problem]:
        """Faults of ids, duplicates, entrypoint, edge ends and numbers: those that need no catalog and no graph."""
        return _structural_problems(self)

    def resolve_entrypoint(self) -> str | None:
        """The step that gets the run's input: as declared, else the only one without incoming edges, else the first."""
        if self.entrypoint is not None:
            return self.entrypoint
        heads = self.heads()
        if len(heads) == 1:
            return heads[0]
        return self.steps[0].step_id if self.steps else None

    def heads(self) -> list[str]:
        """Ids of the steps without incoming edges, in document order."""
        targets = {edge.target_step for edge in self.edges}
        return [step.step_id for step in self.steps if step.step_id not in targets]

    def get_step(self, step_id: str) -> StepDefinition | None:
        """The step of this id, or nothing."""
        return next((step for step in self.steps if step.step_id == step_id), None)

    def get_outgoing_edges(self, step_id: str) -> list[EdgeDefinition]:
        """Edges that leave the step, in document order."""
        return [edge for edge in self.edges if edge.source_step == step_id]

    def get_incoming_edges(self, step_id: str) -> list[EdgeDefinition]:
        """Edges that reach the step, in document order."""
        return [edge for edge in self.edges if edge.target_step == step_id]

    def get_next_steps(self, step_id: str) -> list[str]:
        """Ids of the steps that edges lead to, each once."""
        return list(dict.fromkeys(edge.target_step for edge in self.get_outgoing_edges(step_id)))

    def get_previous_steps(self, step_id: str) -> list[str]:
        """Ids of the steps that edges come from, each once."""
        return list(dict.fromkeys(edge.source_step for edge in self.get_incoming_edges(step_id)))


class StepTypeFacts(BaseModel):
    """What the engine must know of a step type; pinned with each run, so that a catalog may change meanwhile."""

    model_config = ConfigDict(frozen=True)

    type_id: str
    inputs: tuple[str, ...] = ("input",)
    outputs: tuple[str, ...] = ("output",)
    routing: bool = False
    kind: Literal["step", "split", "join"] = "step"
    queue: str = "llmteam.default"
    supports_retry: bool = True


def _structural_problems(segment: SegmentDefinition) -> Iterator[Problem]:
    if _ID.fullmatch(segment.segment_id) is None:
        yield _bad_id("segment_id", segment.segment_id, "segment_id")
    yield from _params_problems(segment.params)
    faults = list(_content_problems(segment))
    yield from faults
    if not faults:
        yield from _json_problems(segment.to_dict(), "")
    if not segment.steps:
        yield Problem("EMPTY_SEGMENT", "Segment has no steps", "steps")
    known = Counter(step.step_id for step in segment.steps)
    if segment.entrypoint is not None and segment.entrypoint not in known:
        yield Problem("INVALID_ENTRYPOINT", f"Entrypoint '{_short(segment.entrypoint)}' not found", "entrypoint")
    reported: set[str] = set()
    for index, step in enumerate(segment.steps):
        yield from _step_problems(step, f"steps[{index}]")
        if known[step.step_id] > 1 and step.step_id not in reported:
            reported.add(step.step_id)
            count = known[step.step_id]
            message = f"Duplicate step_id '{_short(step.step_id)}' ({count} steps)"
            yield Problem("DUPLICATE_ID", message, f"steps[{index}].step_id")
    for index, edge in enumerate(segment.edges):
        for end, step_id in (("source_step", edge.source_step), ("target_step", edge.target_step)):
            if step_id not in known:
                yield Problem("INVALID_REFERENCE", f"Unknown step '{_short(step_id)}'", f"edges[{index}].{end}")


def _params_problems(params: SegmentParams) -> Iterator[Problem]:
    if params.timeout_seconds is not None and not params.timeout_seconds > 0:
        yield Problem("INVALID_VALUE", "should be more than 0, or null for no limit", "params.timeout_seconds")


def _content_problems(segment: SegmentDefinition) -> Iterator[Problem]:
    """What users put in and JSON cannot carry; checked before the whole, which a cycle would never end."""
    yield from _json_problems(segment.metadata, "metadata")
    for index, step in enumerate(segment.steps):
        yield from _json_problems(step.config, f"steps[{index}].config")


def _json_problems(value: Any, path: str) -> Iterator[Problem]:
    try:
        codec.check(value, path)
    except NotJSONError as exc:
        yield Problem("INVALID_TYPE", exc.reason, exc.path.removeprefix("."))


def _step_problems(step: StepDefinition, path: str) -> Iterator[Problem]:
    if _ID.fullmatch(step.step_id) is None:
        yield _bad_id("step_id", step.step_id, f"{path}.step_id")
    for side, ports in (("inputs", step.inputs), ("outputs", step.outputs)):
        seen: set[str] = set()
        for index, port in enumerate(ports):
            place = f"{path}.{side}[{index}].port_id"
            if not 0 < len(port.port_id) < 256:
                yield Problem("INVALID_ID_FORMAT", "a port_id has 1 to 255 characters", place)
            if port.port_id in seen:
                yield Problem("DUPLICATE_ID", f"Duplicate port_id '{_short(port.port_id)}'", place)
            seen.add(port.port_id)
    if "retry_count" in step.config and step.retry_count is None:
        yield Problem("INVALID_VALUE", "should be a whole number, 0 or more", f"{path}.config.retry_count")
    if "timeout_seconds" in step.config and step.timeout_seconds is None:
        yield Problem("INVALID_VALUE", "should be a number of seconds, more than 0", f"{path}.config.timeout_seconds")


def _bad_id(what: str, value: str, path: str) -> Problem:
    rule = "lower-case letters, digits and _, beginning with a letter, at most 255 characters"
    return Problem("INVALID_ID_FORMAT", f"Invalid {what} format '{_short(value)}': {rule}", path)


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"
