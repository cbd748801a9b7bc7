"""A hint that comes while Postgres is away is not used up: the worker sends it again, and its task ends well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmteam.dispatch import IO_QUEUE, Hint, celery_app, lanes_of
from llmteam.settings import Settings
from llmteam.tasks import worker as module
from llmteam.tasks.worker import StepWorker
from tests.services import redis_client
from tests.waiting import wait_until

NOWHERE = "postgresql+psycopg2://nobody@/nothing?host=/nowhere"


@pytest.fixture
def worker(clean_valkey: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StepWorker]:
    """One whose database cannot be reached."""
    settings = Settings(database_url=NOWHERE, broker_url=clean_valkey, sweep_seconds=3600)
    app = celery_app(settings)
    monkeypatch.setattr(module, "current_app", app)
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.1)
    made = StepWorker(settings)
    yield made
    made.runs.close()
    app.close()


def hints(url: str) -> int:
    with redis_client(url) as client:
        return sum(int(client.llen(lane)) for lane in lanes_of(IO_QUEUE))


def test_a_hint_whose_step_cannot_be_claimed_comes_again(worker: StepWorker, clean_valkey: str) -> None:
    worker.run_step(Hint("acme", "r", "a", 1, IO_QUEUE))

    wait_until(lambda: hints(clean_valkey) == 1, "the hint to be there again")


def test_only_so_many_hints_are_put_off_at_once(
    worker: StepWorker, clean_valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 1.0)

    for _ in range(module.AGAIN_MOST + 5):
        worker.run_step(Hint("acme", "r", "a", 1, IO_QUEUE))

    wait_until(lambda: hints(clean_valkey) >= module.AGAIN_MOST, "the hints to be there again")
    assert hints(clean_valkey) == module.AGAIN_MOST
