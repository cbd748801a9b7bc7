"""What the API of runs takes and gives."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from llmteam.canvas.models import EdgeDefinition, SegmentDefinition, StepDefinition, StepPosition, StepUIMetadata
from llmteam.canvas.records import RunRecord, StepRecord
from llmteam.canvas.registry import PublishedSegment, SegmentVersion
from llmteam.canvas.runs import IfClosed, IfOpen
from llmteam.canvas.state import Owner, SegmentStatus, StepState
from llmteam.canvas.surgery import PAUSE_GRACE_SECONDS
from llmteam.events.models import ErrorInfo
from llmteam.web.models import Body, Data, RequestSummary, Text, Value, View

#: Seconds that a pause lets running steps finish at most, so that callers get their answer.
MAX_GRACE = 60.0


class StartBody(Body):
    """A run to start. With a `run_id` or `idempotency_key` it happens once, however often it is asked for."""

    segment: Annotated[Text, Field(min_length=1, max_length=511)] | Data = Field(
        description="`id` or `id@version` of a published segment, or a whole definition."
    )
    input: Value = Field(default=None, description="Any JSON.")
    run_id: str | None = Field(default=None, description="The run's id; a new one by default.")
    idempotency_key: str | None = Field(default=None, description="Your name for this start.")
    if_open: IfOpen = Field(default="return", description="What to do about an open run of the same id or key.")
    if_closed: IfClosed = Field(default="return", description="What to do about one that is over.")


class _Query(BaseModel):
    """What stands behind the question mark; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunsQuery(_Query):
    """Which runs are listed."""

    status: SegmentStatus | None = Field(None, description="Only runs of this status.")
    segment: Text | None = Field(None, description="Only runs of the segment with this id.")
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, description="`next` of the page before.")


class RunQuery(_Query):
    """What is shown of a run."""

    outputs: bool = Field(False, description="Also its input, its outputs and those of its steps.")


class FollowQuery(_Query):
    """Where following begins."""

    after: int = Field(0, ge=0, lt=10**9, description="Only events with a greater number.")


class SegmentsQuery(_Query):
    """Which segments are listed."""

    archived: bool = Field(False, description="Also archived versions.")


class SegmentQuery(_Query):
    """Which version is shown."""

    version: Text | None = Field(None, description="The latest that is not archived by default.")


class PauseBody(Body):
    """How long running steps may go on."""

    grace: float = Field(
        default=PAUSE_GRACE_SECONDS, ge=0, le=MAX_GRACE, description="Seconds; what then still runs, runs again later."
    )


class RunSummary(View):
    """A run as it is now."""

    run_id: str
    segment_id: str
    status: SegmentStatus
    definition_hash: str = Field(description="Names the definition and step types that the run was started with.")
    steps_completed: int
    steps_total: int
    error: ErrorInfo | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline: datetime | None
    paused_at: datetime | None
    snapshot_id: str | None = Field(description="The snapshot of the current pause.")
    idempotency_key: str | None
    link: str | None = Field(description="How it came from `parent_run_id`: `retry`, `fork` or `restart`.")
    parent_run_id: str | None

    @classmethod
    def of(cls, record: RunRecord) -> RunSummary:
        """What a list says of a run."""
        return cls.model_validate(record, from_attributes=True)


class RunList(View):
    """Runs, newest first."""

    runs: list[RunSummary]
    next: str | None = Field(description="`cursor` of the page behind this one; null when there is none.")


class GraphStep(View):
    """A step as an editor draws it."""

    step_id: str
    step_type: str
    title: str
    inputs: list[str] = Field(description="Ids of its input ports.")
    outputs: list[str] = Field(description="Ids of its output ports.")
    position: StepPosition | None
    ui: StepUIMetadata | None

    @classmethod
    def of(cls, step: StepDefinition) -> GraphStep:
        """A step without its configuration."""
        return cls(
            step_id=step.step_id,
            step_type=step.step_type,
            title=step.name or step.step_id,
            inputs=[port.port_id for port in step.inputs],
            outputs=[port.port_id for port in step.outputs],
            position=step.position,
            ui=step.ui,
        )


class Graph(View):
    """What a run goes through."""

    name: str
    version: str
    entrypoint: str | None
    steps: list[GraphStep]
    edges: list[EdgeDefinition]

    @classmethod
    def of(cls, segment: SegmentDefinition) -> Graph:
        """The steps and edges of a definition."""
        return cls(
            name=segment.name,
            version=segment.version,
            entrypoint=segment.resolve_entrypoint(),
            steps=[GraphStep.of(step) for step in segment.steps],
            edges=segment.edges,
        )


class StepView(View):
    """One execution of a step; a step in a loop has one for each `visit`."""

    step_id: str
    visit: int
    state: StepState
    attempt: int = Field(description="Attempts of its handler that have failed.")
    losses: int = Field(description="Workers that were lost with it.")
    waits_for: Owner | None = Field(description="Whom an open step waits for.")
    wake_at: datetime | None
    queue: str
    holder: str | None = Field(description="The process that works on it.")
    started_at: datetime | None
    finished_at: datetime | None
    error: ErrorInfo | None
    output: Any = Field(description="What it gave; null unless `outputs` was asked for.")

    @classmethod
    def of(cls, step: StepRecord) -> StepView:
        """A row as it is shown."""
        row = step.row
        return cls(
            step_id=row.step_id,
            visit=row.visit,
            state=row.state,
            attempt=row.attempt,
            losses=row.losses,
            waits_for=row.owner,
            wake_at=row.wake_at,
            queue=step.queue,
            holder=step.holder,
            started_at=row.started_at,
            finished_at=row.finished_at,
            error=row.error,
            output=step.output,
        )


class RunView(View):
    """A run with its graph, its steps and its open requests to people."""

    run: RunSummary
    last_event: int = Field(
        description="Number of the latest event before this was read: follow the run from here with `after`."
    )
    graph: Graph
    steps: list[StepView]
    requests: list[RequestSummary] = Field(description="Requests to people that are open.")
    input: Any = Field(default=None, description="What it was started with; null unless `outputs` was asked for.")
    outputs: dict[str, Any] | None = Field(
        default=None, description="What a completed run gave; null unless `outputs` was asked for."
    )


class SegmentSummary(View):
    """One version of a published segment."""

    segment_id: str
    version: str
    reference: str = Field(description="How a start names it.")
    content_hash: str
    published_at: datetime
    published_by: str
    archived_at: datetime | None

    @classmethod
    def of(cls, version: SegmentVersion) -> SegmentSummary:
        """What a list says of a version."""
        return cls.model_validate(version, from_attributes=True)


class SegmentList(View):
    """Published versions, newest first."""

    segments: list[SegmentSummary]


class SegmentView(View):
    """A published version with its definition."""

    segment: SegmentSummary
    definition: dict[str, Any] = Field(description="The document as it was published.")

    @classmethod
    def of(cls, found: PublishedSegment) -> SegmentView:
        """A version and its content."""
        return cls(segment=SegmentSummary.of(found.version), definition=found.definition.to_dict())


class StepType(View):
    """A step type as editors offer it."""

    type_id: str
    version: str
    display_name: str
    description: str
    category: str
    icon: str
    color: str
    config_schema: dict[str, Any] = Field(description="JSON Schema of the step's configuration.")
    input_ports: list[dict[str, Any]]
    output_ports: list[dict[str, Any]]
    supports_retry: bool
    supports_timeout: bool
    supports_parallel: bool
    is_async: bool
    docs_url: str | None
    examples: list[dict[str, Any]]


class CatalogView(View):
    """The step types that this server knows. Workers may know others."""

    version: str
    categories: list[str]
    types: list[StepType]
