"""A new run with all its rows in one script, behind the door that its tenant has to pass."""

from __future__ import annotations

from collections.abc import Mapping

from llmteam import codec
from llmteam.audit.postgres import write_in
from llmteam.canvas.auditing import start_of
from llmteam.canvas.features import features_needed
from llmteam.canvas.graph import Node
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.postgres.links import RELEASE_KEY, write_link
from llmteam.canvas.postgres.scripts import insert_steps, write_events
from llmteam.canvas.records import INLINE_INPUT, NewRun
from llmteam.canvas.state import Change, SegmentStatus
from llmteam.db.hot import Script
from llmteam.events.models import EventScope
from llmteam.tenancy.admission import StartLimits
from llmteam.tenancy.postgres.admission import ADMIT, Kind, admit_values


def creation(
    run: NewRun,
    change: Change,
    nodes: Mapping[str, Node],
    first_seq: int,
    region: str,
    unknown: StartLimits,
    *,
    is_known: bool,
) -> Script:
    """The script that writes the run; it answers the run's region.

    ``region`` is what that probably is: if the tenant has another one, its steps are moved there. ``unknown`` holds for
    a tenant without a record. Whether the run's definition ``is_known`` to be there already spares writing it.
    """
    script, ident = Script(), (run.tenant_id, run.run_id)
    kind: Kind = "queue" if change.run.status is SegmentStatus.PENDING else "start"
    features = features_needed(nodes.values())
    script.add(ADMIT, *admit_values(run.tenant_id, change.now, kind, unknown, agents=run.agents, features=features))
    if not is_known:
        _write_definition(script, run)
    inline, reference = _write_input(script, run)
    if run.replaces is not None:
        script.add(RELEASE_KEY, run.tenant_id, run.replaces)
    _write_run(script, run, change, len(nodes), first_seq + len(change.events), inline, reference)
    insert_steps(script, ident, change.added.values(), nodes, region)
    script.add(sql.MOVE_STEPS, *ident, region)
    write_link(script, run, change.added.values())
    scope = EventScope(*ident, run.instance_id, run.pinned.definition.segment_id)
    write_events(script, scope, change.events, change.now, first_seq)
    write_in(script, run.tenant_id, start_of(run, change), now=change.now)
    return script.add(sql.READ_REGION)


def _write_definition(script: Script, run: NewRun) -> None:
    pinned = run.pinned
    facts = {type_id: found.model_dump(mode="json") for type_id, found in pinned.facts.items()}
    document, types = codec.dumps(pinned.definition.to_dict()), codec.dumps(facts)
    script.add(sql.INSERT_DEFINITION, run.tenant_id, pinned.hash, pinned.definition.segment_id, document, types)


def _write_input(script: Script, run: NewRun) -> tuple[str | None, str | None]:
    """The run's input, as it stands in its row or as the reference to what was written."""
    if len(run.input) <= INLINE_INPUT:
        return run.input, None
    digest = codec.digest(run.input)
    script.add(sql.INSERT_PAYLOAD, run.tenant_id, digest, run.input, len(run.input.encode()))
    return None, digest


def _write_run(
    script: Script, run: NewRun, change: Change, total: int, next_seq: int, inline: str | None, reference: str | None
) -> None:
    state, link = change.run, run.link
    script.add(
        sql.INSERT_RUN,
        run.tenant_id,
        run.run_id,
        run.instance_id,
        run.pinned.definition.segment_id,
        run.pinned.hash,
        state.status.value,
        state.open,
        total,
        next_seq,
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
