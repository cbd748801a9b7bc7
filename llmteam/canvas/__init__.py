"""Segments: workflow graphs as JSON, their step types, validation and execution.

Names load on first use (PEP 562), so that importing the package stays cheap and pure parts stay pure.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {
    "exceptions": (
        "AlreadyRunningError",
        "CanvasError",
        "InvalidConditionError",
        "InvalidOutputError",
        "InvalidStepConfigError",
        "InvalidStepTypeError",
        "LocalAgentError",
        "LocalHandlerError",
        "LoopLimitError",
        "NoHandlerError",
        "RunNotFoundError",
        "RunStateError",
        "SegmentArchivedError",
        "SegmentExistsError",
        "SegmentSyntaxError",
        "SegmentValidationError",
        "SnapshotIntegrityError",
        "SnapshotNotFoundError",
        "SnapshotNotPortableError",
        "SnapshotStaleError",
        "StepTimeoutError",
        "StepTypeExistsError",
        "StepTypeNotFoundError",
        "UnknownSegmentError",
    ),
    "documents": ("Problem",),
    "models": (
        "EdgeDefinition",
        "PortDefinition",
        "SegmentDefinition",
        "SegmentParams",
        "StepDefinition",
        "StepPosition",
        "StepTypeFacts",
        "StepUIMetadata",
    ),
    "expressions": ("Expression", "compile_expression", "evaluate_edge_condition", "evaluate_on_document"),
    "ports": ("Broadcast", "Ports", "StepHandler"),
    "validation": (
        "SegmentValidator",
        "ValidationMessage",
        "ValidationResult",
        "ValidationSeverity",
        "validate_segment",
        "validate_segment_dict",
    ),
    "registry": ("MemorySegmentRegistry", "PublishedSegment", "SegmentRegistry", "SegmentVersion"),
    "registry.postgres": ("PostgresSegmentRegistry",),
    "catalog": ("PortSpec", "StepCatalog", "StepCategory", "StepTypeMetadata", "step_type"),
    "handlers": ("HumanTaskHandler", "create_human_task_handler"),
    "runner": ("RunConfig", "SegmentResult", "SegmentRunner", "SegmentStatus"),
    "client": ("SegmentClient",),
    "agents": ("FleetExecutor", "register_agent"),
    "agent_segments": ("AgentRef", "agents_segment"),
    "runs": ("StartRules",),
    "snapshots": ("SegmentSnapshot",),
}

_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
