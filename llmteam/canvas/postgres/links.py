"""Runs made from others: what is over there is taken over with its outputs."""

from __future__ import annotations

from collections.abc import Iterable

from llmteam.canvas.postgres import rows
from llmteam.canvas.postgres import statements as sql
from llmteam.canvas.records import NewRun
from llmteam.canvas.state import StepRow, StepState
from llmteam.db.hot import Script

#: The answers stay where they are: a large one is one row of payloads for both runs.
COPY = """
UPDATE llmteam.run_steps n
   SET whole = o.whole, output = o.output, output_ref = o.output_ref, local_state = o.local_state,
       started_at = o.started_at, losses = o.losses
  FROM llmteam.run_steps o
 WHERE n.tenant_id = %s AND n.run_id = %s AND n.state IN ('completed', 'failed')
   AND o.tenant_id = n.tenant_id AND o.run_id = %s AND o.step_id = n.step_id AND o.visit = n.visit;
"""

#: What a fork was given, its retries are given too.
_GIVEN_BEFORE = """
UPDATE llmteam.run_steps n SET given = o.given
  FROM llmteam.run_steps o
 WHERE n.tenant_id = %s AND n.run_id = %s AND o.given IS NOT NULL
   AND o.tenant_id = n.tenant_id AND o.run_id = %s AND o.step_id = n.step_id AND o.visit = n.visit;
"""

#: Payloads that the copy refers to count as used just now.
_KEEP = """
UPDATE llmteam.payloads p SET created_at = now()
  FROM llmteam.run_steps s
 WHERE s.tenant_id = %s AND s.run_id = %s AND s.output_ref IS NOT NULL
   AND p.tenant_id = s.tenant_id AND p.hash = s.output_ref;
"""

_OUTPUT = """
UPDATE llmteam.run_steps SET whole = %s, output = %s, output_ref = %s
 WHERE tenant_id = %s AND run_id = %s AND step_id = %s AND visit = %s;
"""

_GIVEN = """
UPDATE llmteam.run_steps SET given = %s
 WHERE tenant_id = %s AND run_id = %s AND step_id = %s AND visit = %s;
"""

#: The key of a run that another one takes the place of.
RELEASE_KEY = "UPDATE llmteam.runs SET idempotency_key = NULL WHERE tenant_id = %s AND run_id = %s;"


def write_link(script: Script, run: NewRun, added: Iterable[StepRow]) -> None:
    """Add what a new run takes over from its parent, after its own rows."""
    link, ident = run.link, (run.tenant_id, run.run_id)
    if link is None or link.kind == "restart":
        return
    moved = [row for row in added if row.state in (StepState.COMPLETED, StepState.FAILED) or row.failed_in]
    if moved:
        values = [value for row in moved for value in (*row.key, *rows.step_values(row))]
        script.add(
            sql.UPDATE_STEPS_HEAD + ",".join([sql.UPDATE_STEPS_ROW] * len(moved)) + sql.UPDATE_STEPS_TAIL,
            *values,
            *ident,
        )
    script.add(COPY, *ident, link.parent_run_id).add(_KEEP, *ident)
    if link.kind == "retry":
        script.add(_GIVEN_BEFORE, *ident, link.parent_run_id)
    for key, output in link.outputs.items():
        inline = output.text if output.digest is None else None
        if output.digest is not None:
            script.add(sql.INSERT_PAYLOAD, run.tenant_id, output.digest, output.text, output.size)
        script.add(_OUTPUT, output.whole, inline, output.digest, *ident, *key)
    for key, text in link.given.items():
        script.add(_GIVEN, text, *ident, *key)
