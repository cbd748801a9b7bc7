"""Runs over real HTTP: a server, and another process's part that moves the runs, as far as a test says so."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from llmteam.canvas import SegmentDefinition
from llmteam.canvas.fleet import connect
from llmteam.canvas.runs import Runs
from llmteam.dispatch import Hint
from llmteam.events.stream import EventStream
from llmteam.human.fleet import connect as connect_people
from llmteam.settings import Settings
from llmteam.web import Parts
from tests.site import KEY, Api, Site, site_of

#: Two steps that a worker would do at once; nobody does but the test.
PAIR = {
    "segment_id": "pair",
    "name": "Pair",
    "steps": [
        {
            "step_id": "first",
            "step_type": "transform",
            "name": "First of all",
            "config": {"expression": "{'sum': a + 1}"},
            "position": {"x": 10, "y": 20},
        },
        {"step_id": "second", "step_type": "transform", "config": {"expression": "sum * 2"}},
    ],
    "edges": [{"source_step": "first", "target_step": "second"}],
}


@dataclass
class RunsSite:
    """The server and the process beside it that does the steps."""

    site: Site
    worker: Runs

    @property
    def runs(self) -> Runs:
        assert self.site.parts.runs is not None
        return self.site.parts.runs

    @property
    def stream(self) -> EventStream:
        assert self.site.parts.stream is not None
        return self.site.parts.stream

    def api(self, person: str = "olga", *groups: str, tenant: str = "acme") -> Api:
        return self.site.api(person, *(groups or ("operators",)), tenant=tenant)

    def start(self, segment: Any = None, **more: Any) -> str:
        response = self.api().post(
            "/runs", {"segment": PAIR if segment is None else segment, "input": {"a": 1}, **more}
        )
        assert response.status_code == 201, response.text
        return str(response.json()["run_id"])

    def do(self, run_id: str, *steps: str, answer: Any = 1) -> None:
        """Claim and answer one step after the other, as a worker elsewhere."""
        for step_id in steps:
            claim = self.worker.engine.begin(Hint("acme", run_id, step_id, 1, ""))
            assert claim is not None, f"{step_id} is not due"
            self.worker.engine.answered(claim, answer)


@contextmanager
def runs_site(database_url: str, broker_url: str, *, poll_seconds: float | None = None) -> Iterator[RunsSite]:
    """Serve an installation; ``poll_seconds`` is how often followers look by themselves."""
    settings = replace(Settings.load({}), database_url=database_url, broker_url=broker_url)
    runs, worker = connect(settings, application_name="web"), connect(settings, application_name="elsewhere")
    stream = None
    if poll_seconds is not None:
        stream = EventStream(runs.events, wakeup=runs.wakeup, poll_seconds=poll_seconds)
    try:
        with site_of(Parts(connect_people(settings), [KEY], runs=runs, stream=stream)) as site:
            try:
                yield RunsSite(site, worker)
            finally:
                site.parts.leave()
    finally:
        worker.close()
        runs.close()


def row(*steps: str) -> dict[str, Any]:
    """A segment of steps one after the other."""
    document = [{"step_id": name, "step_type": "transform", "config": {"expression": "1"}} for name in steps]
    edges = [{"source_step": a, "target_step": b} for a, b in itertools.pairwise(steps)]
    return SegmentDefinition.from_dict(
        {"segment_id": "row", "name": "Row", "steps": document, "edges": edges}
    ).to_dict()
