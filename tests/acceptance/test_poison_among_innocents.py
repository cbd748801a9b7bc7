"""One step that takes its process with it, among two hundred in one wide worker that have nothing to do with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.place import Place, place
from tests.drawing import draw
from tests.services import PostgresService
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

INNOCENTS = 200
INNOCENT = draw("a", work="traced_io", config={"a": {"gate": True}}, segment_id="innocent")
POISON = draw("a", work="traced_io", config={"a": {"gate": True, "die": "kill", "times": 99}}, segment_id="poison")


@pytest.fixture
def here(postgres: PostgresService, clean_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    with place(tmp_path_factory.mktemp("poison"), own.create(), clean_valkey) as here:
        wide = ("worker", "--pool", "threads", "--concurrency", str(INNOCENTS + 10))
        with here.line.started(*wide) as threads, here.line.started("worker", "--pool", "prefork") as processes:
            threads.wait_for("ready: llmteam.control", timeout=60)
            processes.wait_for("ready: llmteam.default", timeout=60)
            yield here
    own.drop_all()


def test_p13_poison_fails_apart_and_the_innocents_beside_it_all_complete(here: Place) -> None:
    poison = here.start(POISON)
    innocents = [here.start(INNOCENT) for _ in range(INNOCENTS)]
    for run_id in innocents:  # the first call of each is in the worker when that dies
        for call in (2, 3, 4):
            here.open(run_id, call=call)
    everybody = [poison, *innocents]
    wait_until(
        lambda: all(here.began(run_id, "a") for run_id in everybody), "all steps to be in the worker", timeout=30
    )

    here.open(poison)

    result = here.ended(poison)
    assert (result.status.value, result.error and result.error.error_type) == ("failed", "WorkerLostError")
    assert [call.queue for call in here.began(poison, "a")] == ["llmteam.io"] * 2 + ["llmteam.quarantine"] * 3
    assert {here.ended(run_id).status.value for run_id in innocents} == {"completed"}
    assert {here.rows(run_id)["a"].row.attempt for run_id in innocents} == {0}
