"""What can go wrong with a segment, its registry and its runs.

::

    LLMTeamError
    └── CanvasError
        ├── SegmentValidationError      a definition is unsound; lists every problem
        │   └── SegmentSyntaxError      its text is not JSON; has line and column
        ├── StepTypeNotFoundError       the catalog has no such step type
        ├── StepTypeExistsError         another step type has this name already
        ├── InvalidStepTypeError        a step type is registered under a name or schema that cannot be used
        ├── InvalidStepConfigError      a step's configuration does not fit its type
        ├── InvalidConditionError       an expression does not parse or cannot be evaluated
        ├── InvalidOutputError          a handler returned what cannot be stored or routed
        ├── NoHandlerError              the worker knows no handler for a step type
        ├── LocalHandlerError           a live object was given where workers must import it
        ├── LocalAgentError             a live agent was given to an executor of the fleet
        ├── LoopLimitError              a loop went round too often
        ├── StepTimeoutError            a step was not done within its time
        ├── TeamAgentFailedError        an agent of a team failed, and its strategy has no decision about that
        ├── TeamDecisionError           the model that leads a team gave no decision
        ├── RunNotFoundError            no run has this id in this tenant
        ├── AlreadyRunningError         a run has this id or idempotency key already
        ├── RunStateError               a run is not in the state that this needs
        │   └── SnapshotStaleError      a snapshot is not that of the current pause
        ├── SnapshotNotFoundError       no snapshot has this id in this tenant
        ├── SnapshotIntegrityError      a snapshot's checksum does not fit its content
        ├── SnapshotNotPortableError    a run cannot leave its installation, or not come to this one
        ├── UnknownSegmentError         no published segment has this id and version
        ├── SegmentExistsError          the version is published with other content
        └── SegmentArchivedError        the version is archived and starts no new run

All but :class:`StepTimeoutError` and :class:`TeamDecisionError` are permanent: trying the same again cannot help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmteam.errors import LLMTeamError
from llmteam.expressions.exceptions import ExpressionError

if TYPE_CHECKING:
    from llmteam.canvas.validation import ValidationResult

#: Problems shown in the text of one error; all of them are in its ``errors``.
_SHOWN = 20


def _listed(errors: Sequence[str]) -> str:
    shown = "; ".join(errors[:_SHOWN])
    return f"{shown}; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else shown


def _clipped(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


class CanvasError(LLMTeamError):
    """Root of the errors of :mod:`llmteam.canvas`."""

    retryable = False


class SegmentValidationError(CanvasError):
    """A segment definition is unsound.

    ``errors`` lists every problem, each with its place; ``result`` has codes and JSON paths where a full
    validation was made.
    """

    def __init__(self, errors: Sequence[str] | str, result: ValidationResult | None = None) -> None:
        self.errors = [errors] if isinstance(errors, str) else list(errors)
        self.result = result
        super().__init__(_listed(self.errors))


class SegmentSyntaxError(SegmentValidationError):
    """The text of a definition is not JSON. ``line`` and ``column`` count from 1."""

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {reason}")
        self.reason = reason
        self.line = line
        self.column = column


class StepTypeNotFoundError(CanvasError):
    """The catalog has no step type of this name."""

    def __init__(self, type_id: str) -> None:
        super().__init__(
            f"Unknown step type '{_clipped(type_id)}': use one of `llmteam catalog`, or import the module that "
            "registers it with --import or LLMTEAM_IMPORTS"
        )
        self.type_id = type_id


class StepTypeExistsError(CanvasError):
    """A step type of this name is registered already, by someone else."""

    def __init__(self, type_id: str) -> None:
        super().__init__(f"Step type '{type_id}' is registered already: choose another name, or unregister it first")
        self.type_id = type_id


class InvalidStepTypeError(CanvasError):
    """A step type cannot be registered like this."""

    def __init__(self, type_id: str, reason: str) -> None:
        super().__init__(f"Step type '{_clipped(type_id)}': {reason}")
        self.type_id = type_id
        self.reason = reason


class InvalidStepConfigError(CanvasError):
    """The configuration of a step does not fit the schema of its type. ``errors`` lists every problem."""

    def __init__(self, type_id: str, errors: Sequence[str]) -> None:
        self.type_id = type_id
        self.errors = list(errors)
        super().__init__(f"Configuration of step type '{type_id}': {_listed(self.errors)}")


class InvalidConditionError(CanvasError, ExpressionError):
    """An expression (edge condition, condition step, transform) does not parse or cannot be evaluated."""


class InvalidOutputError(CanvasError):
    """A handler returned a value that cannot be stored as JSON or names a port that the step does not have."""

    def __init__(self, step_id: str, reason: str) -> None:
        super().__init__(f"Output of step '{step_id}': {reason}")
        self.step_id = step_id
        self.reason = reason


class NoHandlerError(CanvasError):
    """The process that claimed a step knows no handler for its type."""

    def __init__(self, type_id: str, worker: str = "", imports: Sequence[str] = ()) -> None:
        where = f" on worker {worker}" if worker else ""
        loaded = f" (it imported {', '.join(imports)})" if imports else ""
        super().__init__(
            f"No handler for step type '{type_id}'{where}{loaded}: start the worker with --import naming the module "
            "that registers it, or set LLMTEAM_IMPORTS"
        )
        self.type_id = type_id
        self.worker = worker
        self.imports = tuple(imports)


class LocalHandlerError(CanvasError):
    """A live handler object was registered on a runner whose steps run on workers, which cannot see it."""

    def __init__(self, type_id: str) -> None:
        super().__init__(
            f"The handler of step type '{type_id}' lives in this process only, and this runner sends steps to "
            "workers: put it into a module with the decorator step_type and start workers with --import naming "
            "that module, or use SegmentRunner() to run in process"
        )
        self.type_id = type_id


class LocalAgentError(CanvasError):
    """A live agent was given to an executor whose agents are made by workers, which cannot see it."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            f"An agent of class {kind} lives in this process only: register its class with register_agent, give an "
            "AgentRef with its id and state, or use PipelineExecutor to run it in process"
        )
        self.kind = kind


class LoopLimitError(CanvasError):
    """A loop was entered more often than ``params.max_visits`` allows."""

    def __init__(self, step_id: str, limit: int) -> None:
        super().__init__(
            f"The loop at step '{step_id}' reached its limit of {limit} iterations: make its condition end it, "
            "or raise params.max_visits"
        )
        self.step_id = step_id
        self.limit = limit


class TeamAgentFailedError(CanvasError):
    """An agent of the team ``step_id`` failed, and no rule takes that up; ``errors`` are their kinds by agent."""

    def __init__(self, step_id: str, errors: Mapping[str, str]) -> None:
        told = ", ".join(f"'{name}' ({kind})" for name, kind in errors.items())
        super().__init__(
            f"Team '{step_id}': {told} failed, and no rule decides what then: see its step with `llmteam runs show`, "
            "or add a rule on failed_agents"
        )
        self.step_id = step_id
        self.errors = dict(errors)


class TeamDecisionError(CanvasError):
    """The model that leads the team ``step_id`` gave no decision; it is asked again as far as retries allow."""

    retryable = True

    def __init__(self, step_id: str, what: str) -> None:
        super().__init__(
            f"Team '{step_id}': the model's answer {what}: have the prompt ask for a JSON object with decision and "
            "targets, or take a model that keeps to it"
        )
        self.step_id = step_id
        self.what = what


class StepTimeoutError(CanvasError, TimeoutError):
    """A step was not done within ``seconds``. It is tried again as far as its retries allow."""

    retryable = True

    def __init__(self, step_id: str, seconds: float) -> None:
        super().__init__(
            f"Step '{step_id}' timed out after {seconds:g} s: raise its timeout_seconds, or make it do less"
        )
        self.step_id = step_id
        self.seconds = seconds


class RunNotFoundError(CanvasError, LookupError):
    """No run of this tenant has this id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"No run '{_clipped(run_id)}' in this tenant: list runs with `llmteam runs list`")
        self.run_id = run_id


class AlreadyRunningError(CanvasError):
    """A run of this tenant has this id or idempotency key already, and the rules of the start refuse to share it."""

    def __init__(self, run_id: str, reason: str = "") -> None:
        because = f" {reason}" if reason else ""
        super().__init__(
            f"Run '{_clipped(run_id)}' exists already{because}: wait for its result, or start with another run_id or "
            "idempotency key"
        )
        self.run_id = run_id
        self.reason = reason


class RunStateError(CanvasError):
    """A run is not in the state that an operation on it needs."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(f"Run '{_clipped(run_id)}' {reason}")
        self.run_id = run_id
        self.reason = reason


class SnapshotStaleError(RunStateError):
    """A snapshot is not that of the run's current pause: the run went on, ended or was paused anew since."""

    def __init__(self, run_id: str, snapshot_id: str, status: str) -> None:
        super().__init__(
            run_id,
            f"is {status}, and its current pause is not that of snapshot '{_clipped(snapshot_id)}': look at it with "
            f"`llmteam runs show`, or fork it to go on from another point",
        )
        self.snapshot_id = snapshot_id
        self.status = status


class SnapshotNotFoundError(CanvasError, LookupError):
    """No snapshot of this tenant has this id."""

    def __init__(self, snapshot_id: str) -> None:
        super().__init__(f"No snapshot '{_clipped(snapshot_id)}' in this tenant: `llmteam runs pause` tells its id")
        self.snapshot_id = snapshot_id


class SnapshotIntegrityError(CanvasError):
    """A snapshot was changed since it was taken."""

    def __init__(self, snapshot_id: str) -> None:
        super().__init__(
            f"Snapshot '{_clipped(snapshot_id)}' does not fit its checksum, so it was changed since it was taken: "
            "use another one, or resume the run by its id"
        )
        self.snapshot_id = snapshot_id


class UnknownSegmentError(CanvasError, LookupError):
    """No published segment of this tenant has this id (and version)."""

    def __init__(self, segment_id: str, version: str | None = None) -> None:
        name = segment_id if version is None else f"{segment_id}@{version}"
        super().__init__(
            f"No published segment '{_clipped(name)}' in this tenant: publish it with `llmteam segment publish`, "
            "or list what is there with `llmteam segment list`"
        )
        self.segment_id = segment_id
        self.version = version


class SegmentExistsError(CanvasError):
    """This version of the segment is published already with other content; published versions never change."""

    def __init__(self, segment_id: str, version: str) -> None:
        super().__init__(
            f"Segment '{segment_id}' version '{version}' is published with other content: published versions never "
            "change, so give the new content a new version"
        )
        self.segment_id = segment_id
        self.version = version


class SegmentArchivedError(CanvasError):
    """This version of the segment is archived: its runs go on, new ones are refused."""

    def __init__(self, segment_id: str, version: str) -> None:
        super().__init__(
            f"Segment '{segment_id}' version '{version}' is archived and starts no new run: use another version, "
            "or publish the same content again to bring it back"
        )
        self.segment_id = segment_id
        self.version = version


class SnapshotNotPortableError(CanvasError):
    """A paused run cannot be carried to another installation, or not to this one."""

    retryable = False

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(f"Run '{_clipped(run_id)}' cannot be carried over: {reason}")
        self.run_id = run_id
        self.reason = reason
