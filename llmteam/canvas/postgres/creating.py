"""New runs as rows."""

from __future__ import annotations

from collections.abc import Mapping

from llmteam import codec
from llmteam.audit.postgres import write_in
from llmteam.canvas.auditing import start_of
from llmteam.canvas.graph import Node
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.postgres.links import RELEASE_KEY, write_link
from llmteam.canvas.postgres.scripts import Script, insert_steps, write_events
from llmteam.canvas.records import INLINE_INPUT, NewRun
from llmteam.canvas.state import Change, SegmentStatus
from llmteam.events.models import EventScope
from llmteam.tenancy.admission import StartLimits
from llmteam.tenancy.postgres.admission import ADMIT, Kind, admit_values


def creation(
    run: NewRun,
    change: Change,
    nodes: Mapping[str, Node],
    first_seq: int,
    unknown: StartLimits,
    *,
    known: bool,
) -> Script:
    """A new run with all that is its own, in one round trip; ``known``: its definition is there for certain.

    ``unknown`` is what holds for a tenant without a record.
    """
    script = Script()
    pinned, state, ident = run.pinned, change.run, (run.tenant_id, run.run_id)
    segment_id = pinned.definition.segment_id
    kind: Kind = "queue" if state.status is SegmentStatus.PENDING else "start"
    script.add(ADMIT, *admit_values(run.tenant_id, change.now, run.agents, kind, unknown))
    if not known:
        facts = {type_id: found.model_dump(mode="json") for type_id, found in pinned.facts.items()}
        document = codec.dumps(pinned.definition.to_dict())
        script.add(sql.INSERT_DEFINITION, run.tenant_id, pinned.hash, segment_id, document, codec.dumps(facts))
    inline, reference = _input(script, run)
    link = run.link
    if run.replaces is not None:
        script.add(RELEASE_KEY, run.tenant_id, run.replaces)
    script.add(
        sql.INSERT_RUN,
        *ident,
        run.instance_id,
        segment_id,
        pinned.hash,
        state.status.value,
        state.open,
        len(nodes),
        first_seq + len(change.events),
        inline,
        reference,
        codec.dumps(run.options.to_dict()),
        codec.dumps(dict(run.context)),
        run.run_id if link is None else link.root_run_id,
        None if link is None else link.parent_run_id,
        None if link is None else link.kind,
        run.idempotency_key,
        run.start_hash,
        state.running,
        state.completed,
        state.failed,
        state.terminals,
        state.deadline,
        state.deadline,
        change.now,
        state.started_at,
    )
    insert_steps(script, ident, change.added.values(), nodes)
    write_link(script, run, change.added.values())
    scope = EventScope(*ident, run.instance_id, segment_id)
    write_events(script, scope, change.events, change.now, first_seq)
    write_in(script, run.tenant_id, start_of(run, change), now=change.now)
    return script.add("SELECT 1")


def _input(script: Script, run: NewRun) -> tuple[str | None, str | None]:
    if len(run.input) <= INLINE_INPUT:
        return run.input, None
    digest = codec.digest(run.input)
    script.add(sql.INSERT_PAYLOAD, run.tenant_id, digest, run.input, len(run.input.encode()))
    return None, digest
