"""Full validation of segments: every problem with its severity, code and JSON path."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from llmteam.canvas.catalog import StepCatalog
from llmteam.canvas.documents import Problem
from llmteam.canvas.exceptions import SegmentValidationError
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.soundness import StepTypes, examine


class ValidationSeverity(StrEnum):
    """Whether a message forbids the run, doubts it, or only tells."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class ValidationMessage:
    """One finding; ``path`` is its place in the document, like ``steps[0].config.path``."""

    severity: ValidationSeverity
    code: str
    message: str
    path: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text} ({self.suggestion})" if self.suggestion else text

    def to_dict(self) -> dict[str, str]:
        """The message as JSON."""
        return {
            "severity": self.severity.value,
            "code": self.code,
            "message": self.message,
            "path": self.path,
            "suggestion": self.suggestion,
        }


@dataclass
class ValidationResult:
    """What a validation found. Valid means: without errors."""

    messages: list[ValidationMessage] = field(default_factory=list)

    @property
    def is_valid(self) -> bool:
        return not self.errors

    @property
    def errors(self) -> list[ValidationMessage]:
        return [message for message in self.messages if message.severity is ValidationSeverity.ERROR]

    @property
    def warnings(self) -> list[ValidationMessage]:
        return [message for message in self.messages if message.severity is ValidationSeverity.WARNING]

    def add_error(self, code: str, message: str, path: str = "", suggestion: str = "") -> None:
        self.messages.append(ValidationMessage(ValidationSeverity.ERROR, code, message, path, suggestion))

    def add_warning(self, code: str, message: str, path: str = "", suggestion: str = "") -> None:
        self.messages.append(ValidationMessage(ValidationSeverity.WARNING, code, message, path, suggestion))

    def add_info(self, code: str, message: str, path: str = "") -> None:
        self.messages.append(ValidationMessage(ValidationSeverity.INFO, code, message, path))

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "is_valid": self.is_valid,
            "error_count": len(self.errors),
            "warning_count": len(self.warnings),
            "messages": [message.to_dict() for message in self.messages],
        }

    def raise_if_invalid(self) -> None:
        """Raise :class:`SegmentValidationError` that lists every error."""
        errors = self.errors
        if errors:
            raise SegmentValidationError([str(message) for message in errors], self)


class SegmentValidator:
    """Validates segments against a catalog (that of the process when none is given).

    ``known`` names step types beside the catalog for which the caller has handlers.
    """

    def __init__(self, catalog: StepTypes | None = None, *, known: Collection[str] = ()) -> None:
        self._types: StepTypes = StepCatalog.get_instance() if catalog is None else catalog
        self._known = frozenset(known)

    def validate(self, segment: SegmentDefinition, strict: bool = True) -> ValidationResult:
        """Every problem of ``segment``. Not ``strict``: an unknown step type is a warning, as workers may know it."""
        findings = examine(segment, self._types, self._known, strict=strict)
        return _result(findings.errors, findings.warnings)

    def validate_dict(self, data: Any, strict: bool = True) -> ValidationResult:
        """Every problem of a document; of one that cannot be read, why not."""
        segment, problems = SegmentDefinition.read(data)
        return _result(problems, []) if segment is None else self.validate(segment, strict)


def _result(errors: list[Problem], warnings: list[Problem]) -> ValidationResult:
    result = ValidationResult()
    for one in errors:
        result.add_error(one.code, one.message, one.path, one.suggestion)
    for one in warnings:
        result.add_warning(one.code, one.message, one.path, one.suggestion)
    return result


def validate_segment(segment: SegmentDefinition, catalog: StepTypes | None = None) -> ValidationResult:
    """Every problem of ``segment``, against the catalog of the process when none is given."""
    return SegmentValidator(catalog).validate(segment)


def validate_segment_dict(data: Any, catalog: StepTypes | None = None) -> ValidationResult:
    """Every problem of a document, against the catalog of the process when none is given."""
    return SegmentValidator(catalog).validate_dict(data)
