"""What a step type is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from llmteam.canvas.models import StepTypeFacts
from llmteam.canvas.schema_check import COMMON_KEYS

DEFAULT_QUEUE = "llmteam.default"


class StepCategory(StrEnum):
    """The group in which editors show a step type."""

    AI = "ai"
    DATA = "data"
    INTEGRATION = "integration"
    CONTROL = "control"
    HUMAN = "human"
    UTILITY = "utility"


@dataclass(frozen=True)
class PortSpec:
    """A port that every step of a type has. ``type`` is a hint for people and tools."""

    name: str
    type: str = "any"
    description: str = ""
    required: bool = True
    default: Any = None
    schema: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The port as JSON; ``default`` and ``schema`` only where they are set."""
        data = {"name": self.name, "type": self.type, "description": self.description, "required": self.required}
        if self.default is not None:
            data["default"] = self.default
        if self.schema is not None:
            data["schema"] = self.schema
        return data


@dataclass(frozen=True)
class StepTypeMetadata:
    """How a step type presents itself; ``config_schema`` is a JSON Schema (draft 2020-12) of its configuration."""

    type_id: str
    version: str
    display_name: str
    description: str
    category: StepCategory
    icon: str = "box"
    color: str = "#4A90D9"
    config_schema: dict[str, Any] = field(default_factory=dict)
    input_ports: list[PortSpec] = field(default_factory=list)
    output_ports: list[PortSpec] = field(default_factory=list)
    supports_retry: bool = True
    supports_timeout: bool = True
    supports_parallel: bool = False
    is_async: bool = True
    docs_url: str | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """One key per field, as JSON."""
        data = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        data["category"] = self.category.value
        data["input_ports"] = [port.to_dict() for port in self.input_ports]
        data["output_ports"] = [port.to_dict() for port in self.output_ports]
        return data

    def facts(self, *, queue: str = DEFAULT_QUEUE, routing: bool = False) -> StepTypeFacts:
        """What the engine must know of the type; a type without ports has one called ``input`` and ``output``."""
        return StepTypeFacts(
            type_id=self.type_id,
            inputs=tuple(port.name for port in self.input_ports) or ("input",),
            outputs=tuple(port.name for port in self.output_ports) or ("output",),
            routing=routing,
            kind="step",
            queue=queue,
            supports_retry=self.supports_retry,
        )


def config_schema(properties: Mapping[str, Any], **rules: Any) -> dict[str, Any]:
    """The schema of a configuration object with these keys and those that every step may have."""
    return {"type": "object", "properties": {**properties, **COMMON_KEYS}, **rules}
