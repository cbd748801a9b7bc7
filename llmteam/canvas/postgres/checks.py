"""Rows that break a rule of the engine, over all tenants: every unfinished step has an owner and a wake-up time.

Rules are SQL conditions that are true of a row that breaks them. Runs are read in pages with all their steps, each page
in one statement that sees one moment: nothing is locked, and nobody is held up however large the tables are. Steps and
runs are read as the sweeper, who sees no document; events, which it does not see, as the tenant whose they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from llmteam.canvas.state import DEADLINE_GRACE
from llmteam.db.engine import Database

#: Runs in one page at most, and steps after which no further run is taken into it.
PAGE_RUNS, PAGE_STEPS = 1_000, 50_000
#: Broken rows that are named; the others are counted.
NAMED = 100
#: How far clocks of workers may be ahead of the database's.
CLOCKS_APART = timedelta(seconds=60)
#: A sweep puts the next hint off by this much at most (:mod:`llmteam.canvas.postgres.sweeps`).
MOST_HINT = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for every row; ``broken`` is true of one for which it does not."""

    name: str
    says: str
    broken: str


#: Of a step ``s`` of a run ``r``; its own names are those of the statement below.
STEP_RULES = (
    Rule("step-has-owner", "an unfinished step has an owner", "s.live_run AND s.is_open AND s.owner IS NULL"),
    Rule(
        "step-has-wake-up",
        "a step that is ready, running or waiting has a wake_at, unless its run is paused",
        "s.live_run AND s.moves AND s.wake_at IS NULL AND s.status <> 'paused'",
    ),
    Rule(
        "owner-fits-state",
        "pending steps wait for inputs, running ones for their lease, ready ones for a queue or a timer, waiting ones "
        "for a person, a limit or a timer; ready and waiting ones of a paused run for its pause",
        """s.live_run AND s.is_open AND s.owner IS NOT NULL AND s.owner <> ALL (CASE
             WHEN s.state = 'pending' THEN ARRAY['inputs'] WHEN s.state = 'running' THEN ARRAY['lease']
             WHEN s.status = 'paused' THEN ARRAY['pause'] WHEN s.state = 'ready' THEN ARRAY['queue', 'timer']
             ELSE ARRAY['person', 'limit', 'timer'] END)""",
    ),
    Rule(
        "pause-freezes", "a step that is held by a pause has no wake_at", "s.owner = 'pause' AND s.wake_at IS NOT NULL"
    ),
    Rule(
        "lease-is-held",
        "a running step has a holder and a lease, or the sweep that took its lease away takes the step back soon",
        """s.live_run AND s.state = 'running' AND (
             s.holder IS NULL OR (s.lease_until IS NULL AND s.wake_at > now() + 3 * %(grace)s))""",
    ),
    Rule(
        "lease-is-of-running",
        "a step that is not running has no holder and no lease",
        "s.is_open AND s.state <> 'running' AND (s.holder IS NOT NULL OR s.lease_until IS NOT NULL)",
    ),
    Rule(
        "lease-in-reach",
        "a lease lies no further ahead than LLMTEAM_LEASE_SECONDS",
        "s.state = 'running' AND s.lease_until > now() + %(lease)s + %(apart)s",
    ),
    Rule(
        "wake-up-in-reach",
        "a wake_at lies no further ahead than a lease, a retry or a hint of a sweep may put it",
        """s.wake_at > now() + %(apart)s + CASE
             WHEN s.owner = 'lease' THEN %(lease)s WHEN s.owner = 'queue' THEN %(hint)s
             WHEN s.state = 'ready' AND s.owner = 'timer' THEN %(retry)s END""",
    ),
    Rule(
        "join-is-not-stuck",
        "a pending step has something left to wait for",
        "s.live_run AND s.state = 'pending' AND s.undecided <= 0",
    ),
    Rule(
        "step-lets-go",
        "a step that is over has no owner, no wake_at, no holder and no lease",
        "NOT s.is_open AND num_nonnulls(s.owner, s.wake_at, s.holder, s.lease_until) > 0",
    ),
    Rule("run-ends-whole", "a run that is over has no open steps", "NOT s.live_run AND s.is_open"),
)

#: Of a run ``r``, with what is counted of its steps.
RUN_RULES = (
    Rule("run-lets-go", "a run that is over has no wake_at", "NOT r.live AND r.wake_at IS NOT NULL"),
    Rule(
        "counters-agree",
        "the counters of a run equal its rows: open, running, completed, failed, terminals",
        """(r.open, r.running, r.completed, r.failed, r.terminals)
           IS DISTINCT FROM (r.n_open, r.n_running, r.n_completed, r.n_failed, r.n_terminals)""",
    ),
    Rule(
        "run-moves",
        "a running run has a step that is ready, running or waiting",
        "r.status = 'running' AND r.n_moving = 0",
    ),
    Rule("pause-is-drained", "a paused run has no running step", "r.status = 'paused' AND r.n_running > 0"),
    Rule(
        "pause-is-known",
        "a pausing run has paused_at and a wake_at, a paused one paused_at, its snapshot and no wake_at",
        """CASE r.status WHEN 'pausing' THEN r.paused_at IS NULL OR r.wake_at IS NULL
             WHEN 'paused' THEN r.paused_at IS NULL OR r.snapshot_id IS NULL OR r.wake_at IS NOT NULL END""",
    ),
    Rule(
        "deadline-wakes",
        "a running run with a deadline has a wake_at, which is not later",
        "r.status = 'running' AND r.deadline IS NOT NULL AND (r.wake_at IS NULL OR r.wake_at > r.deadline)",
    ),
)

EVENT_RULE = Rule("events-are-whole", "the events of a run are numbered from 1 without a gap up to its next_seq", "")

#: Of steps that wait for a person, and of what they asked.
PERSON_RULES = (
    Rule("person-was-asked", "a step that waits for a person has a request of its visit", ""),
    Rule(
        "answer-moves",
        "a step whose request is closed has a wake_at no further ahead than a hint may be put off, unless it is paused",
        "",
    ),
    Rule("request-is-awaited", "a step that asked waits for as long as its request is open", ""),
)

RULES = (*STEP_RULES, *RUN_RULES, EVENT_RULE, *PERSON_RULES)


def _any(rules: Sequence[Rule]) -> str:
    return " OR ".join(f"({rule.broken})" for rule in rules)


def _each(rules: Sequence[Rule]) -> str:
    listed = ", ".join(f"('{rule.name}', {rule.broken})" for rule in rules)
    return f"(VALUES {listed}) v(rule, broken)"


#: The page behind a run, its broken rows, and how many break which rule. Each run's steps are looked up by its key and
#: read once, for counting and for judging: no join whose plan would hang on statistics that may be missing.
PAGE = f"""
WITH page AS MATERIALIZED (
  SELECT p.*, sum(p.total) OVER (ORDER BY p.tenant_id, p.run_id) - p.total AS steps_before FROM (
    SELECT tenant_id, run_id, status, open, running, completed, failed, terminals, total, deadline, wake_at,
           paused_at, snapshot_id, status NOT IN ('completed', 'failed', 'cancelled', 'timeout') AS live
      FROM llmteam.runs WHERE (tenant_id, run_id) > (%(tenant)s, %(run)s)
     ORDER BY tenant_id, run_id LIMIT %(runs)s) p),
r AS MATERIALIZED (
  SELECT page.*, n.* FROM page CROSS JOIN LATERAL (
    SELECT count(*) AS steps, count(*) FILTER (WHERE s.is_open) AS n_open, count(*) FILTER (WHERE s.moves) AS n_moving,
           count(*) FILTER (WHERE s.state = 'running') AS n_running,
           count(*) FILTER (WHERE s.state = 'completed') AS n_completed,
           count(*) FILTER (WHERE s.state = 'failed') AS n_failed, count(*) FILTER (WHERE s.terminal) AS n_terminals,
           json_agg(json_build_array(s.step_id, s.visit, (
             SELECT json_agg(v.rule) FROM {_each(STEP_RULES)} WHERE v.broken)))
             FILTER (WHERE {_any(STEP_RULES)}) AS broken
      FROM (
        SELECT step_id, visit, state, undecided, owner, holder, lease_until, wake_at, terminal,
               page.status, page.live AS live_run, state IN ('ready', 'running', 'waiting') AS moves,
               state IN ('pending', 'ready', 'running', 'waiting') AS is_open
          FROM llmteam.run_steps WHERE tenant_id = page.tenant_id AND run_id = page.run_id OFFSET 0) s) n
   WHERE steps_before < %(steps)s),
broken AS MATERIALIZED (
  SELECT r.tenant_id, r.run_id, b.step ->> 0 AS step_id, (b.step ->> 1)::integer AS visit, v.rule
    FROM r CROSS JOIN LATERAL json_array_elements(r.broken) b(step)
   CROSS JOIN LATERAL json_array_elements_text(b.step -> 2) v(rule)
  UNION ALL
  SELECT r.tenant_id, r.run_id, NULL, NULL, v.rule FROM r CROSS JOIN LATERAL {_each(RUN_RULES)} WHERE v.broken)
SELECT 'page', (SELECT ARRAY[tenant_id, run_id] FROM r ORDER BY r.tenant_id DESC, r.run_id DESC LIMIT 1),
       (SELECT array_agg(DISTINCT tenant_id) FROM r), NULL, (SELECT count(*) FROM r), (SELECT sum(steps)::bigint FROM r)
UNION ALL SELECT 'count', NULL, NULL, rule, count(*), NULL FROM broken GROUP BY rule
UNION ALL (SELECT 'row', ARRAY[tenant_id, run_id, step_id], NULL, rule, visit, NULL
             FROM broken ORDER BY tenant_id, run_id, step_id, visit, rule LIMIT %(named)s)
"""

#: Of one tenant's runs in a page, those whose events are not the numbers from 1 to the last one given.
EVENTS = """
SELECT r.run_id
  FROM llmteam.runs r
 CROSS JOIN LATERAL (
   SELECT count(*) AS number, COALESCE(max(seq), 0) AS last FROM llmteam.events
    WHERE tenant_id = r.tenant_id AND run_id = r.run_id OFFSET 0) e
 WHERE (r.tenant_id, r.run_id) > (%s, %s) AND (r.tenant_id, r.run_id) <= (%s, %s) AND r.tenant_id = %s
   AND (e.number <> r.next_seq - 1 OR e.last <> r.next_seq - 1)
 ORDER BY r.run_id
"""

#: Of one tenant's runs in a page, steps and requests of which one waits without the other.
PEOPLE = """
WITH s AS (
  SELECT run_id, step_id, visit, owner, wake_at FROM llmteam.run_steps
   WHERE (tenant_id, run_id) > (%(tenant)s, %(run)s) AND (tenant_id, run_id) <= (%(last_tenant)s, %(last_run)s)
     AND tenant_id = %(of)s AND state = 'waiting'
     AND CASE owner WHEN 'pause' THEN held_owner ELSE owner END = 'person'),
i AS (
  SELECT run_id, step_id, visit, closed_at FROM llmteam.interactions
   WHERE (tenant_id, run_id) > (%(tenant)s, %(run)s) AND (tenant_id, run_id) <= (%(last_tenant)s, %(last_run)s)
     AND tenant_id = %(of)s AND run_id <> '' AND parked)
SELECT s.run_id, s.step_id, s.visit, CASE WHEN i.run_id IS NULL THEN 'person-was-asked' ELSE 'answer-moves' END
  FROM s LEFT JOIN i USING (run_id, step_id, visit)
 WHERE i.run_id IS NULL
    OR (i.closed_at IS NOT NULL AND s.owner = 'person' AND s.wake_at > now() + %(hint)s + %(apart)s)
UNION ALL
SELECT i.run_id, i.step_id, i.visit, 'request-is-awaited'
  FROM i LEFT JOIN s USING (run_id, step_id, visit) WHERE i.closed_at IS NULL AND s.run_id IS NULL
 ORDER BY 1, 2, 3
"""

#: One row at least, with no sweep when none has ended yet.
_CLOCK = "SELECT now(), s.name, s.ended_at FROM (SELECT) AS one LEFT JOIN llmteam.sweeps s ON true"


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that breaks a rule; ``step_id`` and ``visit`` are None where it is the run's."""

    tenant_id: str
    run_id: str
    step_id: str | None
    visit: int | None
    rule: str


@dataclass(slots=True)
class Findings:
    """What was looked at and what was wrong: the first :data:`NAMED` rows, and how many by rule."""

    runs: int = 0
    steps: int = 0
    rows: list[Broken] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class PostgresChecks:
    """Looks at the rows of all tenants; changes nothing.

    ``lease`` is how long a claim holds a step, ``retry`` the longest delay of an attempt.
    """

    def __init__(self, database: Database, *, lease: timedelta, retry: timedelta) -> None:
        self._database = database
        self._bounds = {
            "lease": lease,
            "retry": retry,
            "hint": MOST_HINT,
            "apart": CLOCKS_APART,
            "grace": DEADLINE_GRACE,
        }

    def check(self, page_runs: int = PAGE_RUNS) -> Findings:
        """Look at every run and every step."""
        findings = Findings()
        after = ("", "")
        while (last := self._page(findings, after, page_runs)) is not None:
            after = last
        return findings

    def _page(self, findings: Findings, after: tuple[str, str], page_runs: int) -> tuple[str, str] | None:
        values = {"tenant": after[0], "run": after[1], "runs": page_runs, "steps": PAGE_STEPS, "named": NAMED}
        with self._database.hot(None) as connection:
            found = connection.script(PAGE, values | self._bounds, role="llmteam_sweeper") or []
        last: tuple[str, str] | None = None
        for kind, key, tenants, rule, number, steps in found:
            if kind == "page" and key is not None:
                last = (key[0], key[1])
                findings.runs += number
                findings.steps += steps
                for broken in (*self._gaps(after, last, tenants), *self._unasked(after, last, tenants)):
                    findings.counts[broken.rule] += 1
                    self._name(findings, broken)
            elif kind == "count":
                findings.counts[rule] += number
            elif kind == "row":
                self._name(findings, Broken(key[0], key[1], key[2], number, rule))
        return last

    def _name(self, findings: Findings, row: Broken) -> None:
        if len(findings.rows) < NAMED:
            findings.rows.append(row)

    def _gaps(self, after: tuple[str, str], last: tuple[str, str], tenants: Sequence[str]) -> Iterator[Broken]:
        for tenant_id in tenants:
            with self._database.hot(tenant_id) as connection:
                found: list[Any] = connection.script(EVENTS, (*after, *last, tenant_id)) or []
            yield from (Broken(tenant_id, run_id, None, None, EVENT_RULE.name) for (run_id,) in found)

    def _unasked(self, after: tuple[str, str], last: tuple[str, str], tenants: Sequence[str]) -> Iterator[Broken]:
        ends = {"tenant": after[0], "run": after[1], "last_tenant": last[0], "last_run": last[1]}
        for tenant_id in tenants:
            with self._database.hot(tenant_id) as connection:
                found: list[Any] = connection.script(PEOPLE, {**ends, "of": tenant_id, **self._bounds}) or []
            yield from (Broken(tenant_id, *row) for row in found)

    def clock(self) -> tuple[datetime, dict[str, datetime]]:
        """The database's present moment, and when each sweep last ended, by its name."""
        with self._database.hot(None) as connection:
            found = connection.script(_CLOCK, (), role="llmteam_sweeper") or []
        return found[0][0], {name: ended_at for _, name, ended_at in found if name is not None}
