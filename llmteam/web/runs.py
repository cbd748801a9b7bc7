"""The JSON API of runs: starting, listing, looking, steering and following them. For operators.

Handlers are plain functions, which the server runs in threads, but for the stream, which has none of its own.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor

from llmteam import codec
from llmteam.audit.models import AuditDraft, AuditEventType, AuditSeverity
from llmteam.canvas.exceptions import RunStateError, UnknownSegmentError
from llmteam.canvas.models import SegmentDefinition
from llmteam.canvas.records import RunRecord
from llmteam.canvas.registry import MemorySegmentRegistry, SegmentRegistry
from llmteam.canvas.results import RunConfig
from llmteam.canvas.runs import Runs, Start, StartRules, runtime_ref
from llmteam.canvas.state import SegmentStatus
from llmteam.canvas.surgery import PAUSE_GRACE_SECONDS
from llmteam.canvas.validation import SegmentValidator
from llmteam.events.models import TERMINAL_TYPES, EventQuery, EventType
from llmteam.ids import as_utc, check_identifier, new_id
from llmteam.web.api import PartsHere, refusals
from llmteam.web.exceptions import OperatorsOnlyError
from llmteam.web.following import EventSource, told
from llmteam.web.identity import ApiIdentity, Identity
from llmteam.web.inbox import check_operator
from llmteam.web.models import RequestSummary, Text
from llmteam.web.parts import parts_of
from llmteam.web.run_models import (
    CatalogView,
    FollowQuery,
    Graph,
    PauseBody,
    RunList,
    RunQuery,
    RunsQuery,
    RunSummary,
    RunView,
    SegmentList,
    SegmentQuery,
    SegmentsQuery,
    SegmentSummary,
    SegmentView,
    StartBody,
    StepView,
)

_LISTING = refusals(401, 403, 422, 503)
_LOOKING = refusals(401, 403, 404, 422, 503)
_STEERING = refusals(401, 403, 404, 409, 413, 422, 503)
_STARTED: dict[int | str, dict[str, Any]] = {
    200: {"model": RunSummary, "description": "The run that was there already"}
}
#: As OpenAPI 3.2 describes the items of a stream (section 4.14.4).
_EVENT = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {"type": "string", "enum": [kind.value for kind in EventType]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`id` is the event's number, `event` its type, `data` the event as JSON",
        "content": {"text/event-stream": {"itemSchema": _EVENT}},
    },
    204: {"description": "The run is over, and you have seen its last event: do not come back"},
}


class _RunIdConvertor(Convertor[str]):
    """Ids of runs may have slashes; what they end with here is another address."""

    regex = r"(?!.*/(?:events|cancel|pause|resume)$).+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("run", _RunIdConvertor())
router = APIRouter(prefix="/api", tags=["runs"])


async def _operator(request: Request, identity: ApiIdentity) -> Identity:
    """Who asks, if they are an operator: what a run carries is not less confidential than what it asks people.

    Who is none is in the audit trail.
    """
    try:
        check_operator(identity, "see, start or steer runs")
    except OperatorsOnlyError:
        denials = _runs(request).engine.denials
        await run_in_threadpool(denials.note, identity.tenant_id, _denial(request, identity))
        raise
    return identity


def _denial(request: Request, identity: Identity) -> AuditDraft:
    route = request.scope.get("route")
    return AuditDraft(
        event_type=AuditEventType.ACCESS_DENIED,
        severity=AuditSeverity.WARNING,
        actor_type="user",
        actor_id=identity.person,
        actor_ip="" if request.client is None else request.client.host,
        action=f"{request.method} {getattr(route, 'path_format', '')}",
        run_id=str(request.path_params.get("run_id", ""))[:255],
        resource_type="pipeline",
        success=False,
        error_message="not an operator",
    )


def _runs(request: Request) -> Runs:
    runs = parts_of(request).runs
    assert runs is not None, "an application without runs has none of these addresses"
    return runs


def _run_id(run_id: Annotated[str, Path(description="The run's id.")]) -> str:
    return check_identifier("run_id", run_id)


Operator = Annotated[Identity, Depends(_operator)]
RunsHere = Annotated[Runs, Depends(_runs)]
RunId = Annotated[str, Depends(_run_id)]
LastEventId = Annotated[
    str, Header(alias="Last-Event-ID", pattern=r"^[0-9]{0,9}$", description="As `after`; it goes before.")
]


@router.get("/runs", responses=_LISTING)
def list_runs(runs: RunsHere, identity: Operator, query: Annotated[RunsQuery, Query()]) -> RunList:
    """Runs, newest first; `next` leads to those behind them."""
    found = runs.engine.store.records(
        identity.tenant_id,
        status=query.status,
        segment_id=query.segment,
        limit=query.limit + 1,
        before=None if query.cursor is None else _place(query.cursor),
    )
    page = found[: query.limit]
    further = _cursor(page[-1]) if len(found) > query.limit else None
    return RunList(runs=[RunSummary.of(record) for record in page], next=further)


@router.post("/runs", status_code=201, responses={**_STARTED, **refusals(401, 403, 409, 413, 422, 429, 503)})
def start_run(parts: PartsHere, runs: RunsHere, identity: Operator, body: StartBody, response: Response) -> RunSummary:
    """Start a run. 201 tells where it is, 200 gives the one that was started before under that id or key.

    An unsound definition is refused with every problem and its path.
    """
    started = runs.begin(_start(runs, identity, body))
    response.headers["Location"] = f"{parts.base}/api/runs/{quote(started.run_id)}"
    response.status_code = 201 if started.is_new else 200
    return RunSummary.of(runs.record(identity.tenant_id, started.run_id))


@router.get("/runs/{run_id:path}/events", response_class=Response, responses={**_EVENTS, **_LOOKING})
async def follow_run(
    parts: PartsHere,
    runs: RunsHere,
    identity: Operator,
    run_id: RunId,
    query: Annotated[FollowQuery, Query()],
    last_event_id: LastEventId = "",
) -> Response:
    """The run's events as server-sent events: stored ones first, then as they happen, until the one that ends it.

    It ends as well when your token does; come back with the number of the last event that you have seen.
    """
    after = int(last_event_id or query.after)
    tenant_id = identity.tenant_id
    if await run_in_threadpool(_is_seen_to_its_end, runs, tenant_id, run_id, after):
        return Response(status_code=204)
    assert parts.stream is not None
    until = identity.until or datetime.max.replace(tzinfo=UTC)
    return EventSource(told(parts.stream, tenant_id, run_id, after, until=until, clock=parts.clock))


def _is_seen_to_its_end(runs: Runs, tenant_id: str, run_id: str, after: int) -> bool:
    """Whether there is nothing to follow any more. Raises :class:`RunNotFoundError`."""
    if not runs.record(tenant_id, run_id).status.is_terminal or not after:
        return False
    ends = runs.events.select(EventQuery(tenant_id=tenant_id, run_id=run_id, event_types=TERMINAL_TYPES, limit=1))
    return any((event.seq or 0) <= after for event in ends)


@router.post("/runs/{run_id:path}/cancel", responses=_STEERING)
def cancel_run(runs: RunsHere, identity: Operator, run_id: RunId) -> RunSummary:
    """Cancel a run. Steps that run are told; what they did is not undone. Again: nothing more happens."""
    runs.record(identity.tenant_id, run_id)
    runs.cancel(identity.tenant_id, run_id, by=identity.person)
    return _steered(runs, identity, run_id, SegmentStatus.CANCELLED, "cancelled")


@router.post("/runs/{run_id:path}/pause", responses=_STEERING)
def pause_run(runs: RunsHere, identity: Operator, run_id: RunId, body: PauseBody | None = None) -> RunSummary:
    """Pause a run, and answer when it has stopped: with its snapshot. Again: the snapshot that it has."""
    runs.record(identity.tenant_id, run_id)
    grace = PAUSE_GRACE_SECONDS if body is None else body.grace
    runs.surgery.pause(identity.tenant_id, run_id, grace, by=identity.person)
    return _steered(runs, identity, run_id, SegmentStatus.PAUSED, "paused")


@router.post("/runs/{run_id:path}/resume", responses=_STEERING)
def resume_run(runs: RunsHere, identity: Operator, run_id: RunId) -> RunSummary:
    """Go on with a paused run."""
    runs.record(identity.tenant_id, run_id)
    runs.surgery.resume(identity.tenant_id, run_id, by=identity.person)
    return RunSummary.of(runs.record(identity.tenant_id, run_id))


def _steered(runs: Runs, identity: Identity, run_id: str, wanted: SegmentStatus, what: str) -> RunSummary:
    """The run, if it is as it was wanted; else :class:`RunStateError`."""
    record = runs.record(identity.tenant_id, run_id)
    if record.status is not wanted:
        raise RunStateError(run_id, f"is {record.status.value} and cannot be {what}: look at it anew")
    return RunSummary.of(record)


@router.get("/runs/{run_id:run}", responses=_LOOKING)
def show_run(runs: RunsHere, identity: Operator, run_id: RunId, query: Annotated[RunQuery, Query()]) -> RunView:
    """A run with its graph, the states of its steps, and the requests to people that it waits for."""
    tenant_id, store = identity.tenant_id, runs.engine.store
    # The number first: whoever follows from it may see a change twice, but misses none.
    last_event = runs.events.count(EventQuery(tenant_id=tenant_id, run_id=run_id))
    record = runs.record(tenant_id, run_id)
    steps = store.steps(tenant_id, run_id, outputs=query.outputs)
    asked = store.interactions.of_run(tenant_id, run_id)
    given = store.input(tenant_id, run_id) if query.outputs else None
    return RunView(
        run=RunSummary.of(record),
        last_event=last_event,
        graph=Graph.of(store.definition(tenant_id, record.definition_hash).expanded),
        steps=[StepView.of(step) for step in steps],
        requests=[RequestSummary.of(request) for request in asked if request.status.is_open],
        input=None if given is None else codec.loads(given),
        outputs=_outputs(runs, record) if query.outputs else None,
    )


def _outputs(runs: Runs, record: RunRecord) -> dict[str, Any] | None:
    completed = record.status is SegmentStatus.COMPLETED
    return runs.engine.store.outputs(record.tenant_id, record.run_id) if completed else None


@router.get("/catalog", responses=refusals(401, 403, 503))
def show_catalog(runs: RunsHere, identity: ApiIdentity) -> CatalogView:
    """The step types that segments can use, each with the schema of its configuration."""
    return CatalogView.model_validate(runs.catalog.export_for_ui())


@router.get("/segments", responses=_LISTING)
def list_segments(runs: RunsHere, identity: Operator, query: Annotated[SegmentsQuery, Query()]) -> SegmentList:
    """Published segments, version by version, newest first."""
    found = _registry(runs).versions(identity.tenant_id, archived=query.archived)
    return SegmentList(segments=[SegmentSummary.of(version) for version in found])


@router.get("/segments/{segment_id}", responses=_LOOKING)
def show_segment(
    runs: RunsHere,
    identity: Operator,
    segment_id: Annotated[Text, Path(description="The segment's id.")],
    query: Annotated[SegmentQuery, Query()],
) -> SegmentView:
    """One version of a segment with its definition; the latest that is not archived by default."""
    found = _registry(runs).find(identity.tenant_id, segment_id, query.version)
    if found is None:
        raise UnknownSegmentError(segment_id, query.version)
    return SegmentView.of(found)


def _registry(runs: Runs) -> SegmentRegistry:
    return runs.registry or MemorySegmentRegistry()


def _start(runs: Runs, identity: Identity, body: StartBody) -> Start:
    definition = _definition(runs, identity.tenant_id, body.segment)
    run_id = check_identifier("run_id", body.run_id or new_id())
    return Start(
        tenant_id=identity.tenant_id,
        segment=definition,
        input=body.input,
        config=RunConfig(max_retries=definition.params.max_retries, started_by=identity.person),
        run_id=run_id,
        context=runtime_ref(identity.tenant_id, run_id),
        idempotency_key=body.idempotency_key,
        rules=StartRules(body.if_open, body.if_closed),
    )


def _definition(runs: Runs, tenant_id: str, segment: str | dict[str, Any]) -> SegmentDefinition:
    if isinstance(segment, str):
        try:
            return runs.resolve(tenant_id, segment)
        except UnknownSegmentError as exc:
            raise _invalid("body", "segment", str(exc)) from None
    definition, _ = SegmentDefinition.read(segment)
    if definition is None:
        SegmentValidator(runs.catalog).validate_dict(segment).raise_if_invalid()
    return definition or SegmentDefinition.from_dict(segment)


def _invalid(where: str, what: str, reason: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": (where, what), "msg": reason}])


def _cursor(record: RunRecord) -> str:
    return base64.urlsafe_b64encode(f"{record.created_at.isoformat()}~{record.run_id}".encode()).decode()


def _place(cursor: str) -> tuple[datetime, str]:
    """Where a page begins."""
    try:
        moment, _, run_id = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii").partition("~")
        return as_utc(datetime.fromisoformat(moment)), check_identifier("run_id", run_id)
    except (ValueError, OverflowError):
        raise _invalid("query", "cursor", "it is none that a list has given") from None
