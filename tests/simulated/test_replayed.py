"""Runs of the simulated histories, whatever broke in them, replay on their definition without a deviation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmteam.canvas.graph import compile_graph
from llmteam.canvas.nets import net_of
from llmteam.canvas.stores import MemoryRunStore
from llmteam.events.models import WorktrailEvent
from llmteam.mining.models import ABORT, COMPLETE, START
from llmteam.mining.replay import replay
from llmteam.mining.traces import in_order, process_events
from tests.mined import stored_run
from tests.simulated.histories import play
from tests.simulated.world import TENANT, World

SEEDS = 400
PART = 100


class RecordingStore(MemoryRunStore):
    """Keeps what was told of each run."""

    def __init__(self, sink: Callable[[Sequence[WorktrailEvent]], Any], **how: Any) -> None:
        self.told: defaultdict[str, list[WorktrailEvent]] = defaultdict(list)

        def keep(events: Sequence[WorktrailEvent]) -> Any:
            for event in events:
                self.told[event.run_id].append(event)
            return sink(events)

        super().__init__(sink=keep, **how)


class RecordedWorld(World):
    store_class = RecordingStore


@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_whatever_broke_untouched_runs_fit_and_their_traces_are_whole(first: int) -> None:
    seen: Counter[str] = Counter()

    for seed in range(first, first + PART):
        world = play(seed, RecordedWorld).world
        store = world.store
        assert isinstance(store, RecordingStore)
        for run_id in world.known():
            run = stored_run(store, TENANT, run_id, store.told[run_id])
            pinned = store.definition(TENANT, run.definition_hash)
            net = net_of(compile_graph(pinned.definition, pinned.facts.get))
            events = list(run.events)

            found = replay(net, events, status=run.status, linked=run.link is not None)
            without_rows = [event._replace(decisions=None, ready_at=None) for event in events]
            blind = replay(net, without_rows, status=run.status, linked=run.link is not None)

            assert (found.deviations, found.fitness, blind.fitness) == ([], 1.0, 1.0), f"seed {seed}, {run_id}"
            trace = list(in_order(process_events(events)))
            assert len({event.event_id for event in trace}) == len(trace), f"seed {seed}, {run_id}"
            assert [event.timestamp for event in trace] == sorted(event.timestamp for event in trace)
            seen.update(event.lifecycle for event in trace)
            seen[run.status] += 1

    wanted = (START, COMPLETE, ABORT, "schedule", "suspend", "resume", "assign", "reassign", "autoskip", "failed")
    assert min(seen[one] for one in wanted) > 0, seen
