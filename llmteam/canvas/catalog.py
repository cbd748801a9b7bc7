"""The step types that a process knows: the nine built-in ones and those that user modules register on import."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import RLock
from typing import Any, ClassVar, TypeVar

from llmteam.canvas.builtin_types import BUILTIN_TYPES
from llmteam.canvas.exceptions import InvalidStepTypeError, StepTypeExistsError, StepTypeNotFoundError
from llmteam.canvas.models import SegmentDefinition, StepTypeFacts
from llmteam.canvas.ports import StepHandler
from llmteam.canvas.schema_check import ConfigSchema
from llmteam.canvas.step_types import (
    DEFAULT_QUEUE,
    PortSpec,
    StepCategory,
    StepTypeMetadata,
    config_schema,
)
from llmteam.dispatch import QUARANTINE_QUEUE, QUEUES

__all__ = ["PortSpec", "StepCatalog", "StepCategory", "StepTypeMetadata", "step_type"]

_TYPE_ID = re.compile(r"[A-Za-z][\w.-]{0,99}", re.ASCII)
#: Queues that workers serve; the one for steps that kill their workers is not to be asked for.
_QUEUES = [queue for queue in QUEUES if queue != QUARANTINE_QUEUE]

_Handler = TypeVar("_Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Entry:
    metadata: StepTypeMetadata
    facts: StepTypeFacts
    schema: ConfigSchema
    handler: StepHandler | None


class StepCatalog:
    """Step types with their schemas and handlers. One per process serves runners and workers; safe for threads.

    A catalog of one's own starts with the built-in types and with the handlers that it is given.
    """

    _instance: ClassVar[StepCatalog | None] = None
    _instance_lock: ClassVar[RLock] = RLock()

    def __init__(self, handlers: Mapping[str, StepHandler] | None = None) -> None:
        self._lock = RLock()
        self._entries: dict[str, _Entry] = {}
        for metadata, facts in BUILTIN_TYPES:
            self._put(metadata, facts, (handlers or {}).get(metadata.type_id))

    @classmethod
    def get_instance(cls) -> StepCatalog:
        """The catalog of this process, with the built-in handlers."""
        with cls._instance_lock:
            if cls._instance is None:
                from llmteam.canvas.handlers import BUILTIN_HANDLERS

                cls._instance = cls(BUILTIN_HANDLERS)
            return cls._instance

    @classmethod
    def reset_instance(cls) -> None:
        """Forget the catalog of this process; what user modules registered comes back only when they do it again."""
        with cls._instance_lock:
            cls._instance = None

    def register(
        self,
        metadata: StepTypeMetadata,
        handler: StepHandler | None = None,
        *,
        queue: str | None = None,
        routing: bool | None = None,
    ) -> None:
        """Add a step type, or replace one. Raises :class:`InvalidStepTypeError` for a name or schema that is none.

        ``queue`` (default ``llmteam.default``) is where its steps wait for a worker. ``routing`` says that only the
        ports it names in its answer are live. Replacing a type keeps what is not given anew.
        """
        _check(metadata, queue)
        with self._lock:
            old = self._entries.get(metadata.type_id)
            facts = metadata.facts(
                queue=queue or (old.facts.queue if old else DEFAULT_QUEUE),
                routing=(old.facts.routing if old else False) if routing is None else routing,
            )
            if old is not None:
                facts = facts.model_copy(update={"kind": old.facts.kind})
            self._put(metadata, facts, handler or (old.handler if old else None))

    def _put(self, metadata: StepTypeMetadata, facts: StepTypeFacts, handler: StepHandler | None) -> None:
        self._entries[metadata.type_id] = _Entry(metadata, facts, ConfigSchema(metadata.config_schema), handler)

    def unregister(self, type_id: str) -> None:
        """Forget a step type; an unknown one is ignored."""
        with self._lock:
            self._entries.pop(type_id, None)

    def has(self, type_id: str) -> bool:
        """Whether the type is known."""
        return type_id in self._entries

    def get_type(self, type_id: str) -> StepTypeMetadata | None:
        """How the type presents itself, or nothing."""
        entry = self._entries.get(type_id)
        return entry.metadata if entry else None

    def get_handler(self, type_id: str) -> StepHandler | None:
        """What does the work of the type, or nothing."""
        entry = self._entries.get(type_id)
        return entry.handler if entry else None

    def facts(self, type_id: str) -> StepTypeFacts | None:
        """What the engine must know of the type, or nothing."""
        entry = self._entries.get(type_id)
        return entry.facts if entry else None

    def schema(self, type_id: str) -> ConfigSchema | None:
        """The compiled schema of the type's configuration, or nothing."""
        entry = self._entries.get(type_id)
        return entry.schema if entry else None

    def list_type_ids(self) -> list[str]:
        """Names of the types, in the order of their registration."""
        return list(self._entries)

    def list_types(self, category: StepCategory | None = None) -> list[StepTypeMetadata]:
        """The types, or those of one category."""
        known = [entry.metadata for entry in list(self._entries.values())]
        return [metadata for metadata in known if category is None or metadata.category == category]

    def validate_config(self, type_id: str, config: Mapping[str, Any]) -> bool:
        """Whether ``config`` fits the type; false for an unknown type."""
        return not self.validate_step_config(type_id, config)

    def validate_step_config(self, type_id: str, config: Mapping[str, Any]) -> list[str]:
        """Every fault of ``config`` with its path; empty when it fits."""
        schema = self.schema(type_id)
        if schema is None:
            return [str(StepTypeNotFoundError(type_id))]
        return [str(problem) for problem in schema.problems(config)]

    def export_for_ui(self) -> dict[str, Any]:
        """All types as JSON, for editors."""
        return {
            "version": "1.0",
            "categories": [category.value for category in StepCategory],
            "types": [metadata.to_dict() for metadata in self.list_types()],
        }

    def segment_schema(self) -> dict[str, Any]:
        """JSON Schema of segment documents in which each step's configuration is described by its type."""
        schema = SegmentDefinition.json_schema()
        step = schema["$defs"]["StepDefinition"]
        step["allOf"] = [
            {
                "if": {"properties": {"step_type": {"const": metadata.type_id}}, "required": ["step_type"]},
                "then": {"properties": {"config": metadata.config_schema or {"type": "object"}}},
            }
            for metadata in self.list_types()
        ]
        step["properties"]["step_type"]["examples"] = self.list_type_ids()
        return schema


def _check(metadata: StepTypeMetadata, queue: str | None) -> None:
    type_id = metadata.type_id
    if _TYPE_ID.fullmatch(type_id) is None:
        raise InvalidStepTypeError(type_id, "a name has letters, digits, _ . and -, and begins with a letter")
    if queue is not None and queue not in _QUEUES:
        raise InvalidStepTypeError(type_id, f"queue {queue!r} is served by no worker: use one of {', '.join(_QUEUES)}")
    fault = ConfigSchema.fault(metadata.config_schema)
    if fault is not None:
        raise InvalidStepTypeError(type_id, f"config_schema is not JSON Schema: {fault}")


def step_type(
    type_id: str,
    *,
    inputs: Iterable[str | PortSpec] = ("input",),
    outputs: Iterable[str | PortSpec] = ("output",),
    queue: str | None = None,
    properties: Mapping[str, Any] | None = None,
    schema: dict[str, Any] | None = None,
    display_name: str | None = None,
    description: str = "",
    category: StepCategory = StepCategory.UTILITY,
    version: str = "1.0",
    routing: bool = False,
    supports_retry: bool = True,
    catalog: StepCatalog | None = None,
) -> Callable[[_Handler], _Handler]:
    """Register the decorated handler as a step type: a plain or ``async`` function, or a class with ``__call__``.

    ``properties`` describes the configuration's keys in JSON Schema; ``schema`` is the whole schema instead. Text of
    the format ``expression`` is checked when a segment is validated. Importing the module on a worker (``--import``)
    is all that it takes to make the type known there.

    Raises:
        StepTypeExistsError: another handler has this name. Use :meth:`StepCatalog.register` to replace one.
        InvalidStepTypeError: the name, the queue or the schema cannot be used.
    """
    metadata = StepTypeMetadata(
        type_id=type_id,
        version=version,
        display_name=display_name or type_id.replace("_", " ").title(),
        description=description,
        category=category,
        config_schema=schema if schema is not None else config_schema(properties or {}),
        input_ports=[port if isinstance(port, PortSpec) else PortSpec(port) for port in inputs],
        output_ports=[port if isinstance(port, PortSpec) else PortSpec(port) for port in outputs],
        supports_retry=supports_retry,
    )

    def register(handler: _Handler) -> _Handler:
        target = catalog or StepCatalog.get_instance()
        made = handler() if isinstance(handler, type) else handler
        if not callable(made):
            raise InvalidStepTypeError(type_id, "its handler cannot be called: give the class a method __call__")
        known = target.get_handler(type_id)
        if target.has(type_id) and (known is None or _origin(known) != _origin(made)):
            raise StepTypeExistsError(type_id)
        target.register(metadata, made, queue=queue, routing=routing)
        return handler

    return register


def _origin(handler: object) -> tuple[str, str]:
    """Where a handler was written, so that importing its module again is no conflict."""
    named = handler if hasattr(handler, "__qualname__") else type(handler)
    return named.__module__, named.__qualname__
