"""An answer that is given in another process reaches whoever waits here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llmteam.human import HumanInteractionManager, InteractionClosedError, InteractionStatus, manager
from llmteam.human.fleet import connect
from llmteam.settings import Settings
from llmteam.tenancy import TenantContext

#: Answers as the first argument says: the database, the broker, the request.
ANSWER = """
import asyncio, sys
from llmteam.human.fleet import connect
from llmteam.settings import Settings

database_url, broker_url, request_id = sys.argv[1:]
people = connect(Settings(), database_url=database_url, broker_url=broker_url, tenant_id="acme")
asyncio.run(people.respond(request_id, "ann", approved=True, comment="from elsewhere"))
people.store.core.wakeup.close()
"""


@pytest.fixture
def people(database_url: str, clean_valkey: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[HumanInteractionManager]:
    """A manager whose waiters never look on their own, so that only a wake-up can make them."""
    monkeypatch.setattr(manager, "POLL_SECONDS", 3600.0)
    made = connect(Settings(), database_url=database_url, broker_url=clean_valkey)
    with TenantContext("acme"):
        yield made
    made.store.core.wakeup.close()


def test_an_answer_in_another_process_wakes_every_waiter(
    people: HumanInteractionManager, database_url: str, clean_valkey: str
) -> None:
    async def story() -> None:
        asked = await people.request_approval(message="Go on?", assignee="ann")
        waits = [asyncio.create_task(people.wait_for_response(asked.request_id)) for _ in range(3)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ANSWER, database_url, clean_valkey, asked.request_id), stderr=subprocess.PIPE
        )
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()

        answers = await asyncio.wait_for(asyncio.gather(*waits), 30)

        assert [answer and answer.comment for answer in answers] == ["from elsewhere"] * 3
        kept = await people.get_request(asked.request_id)
        assert kept is not None
        assert kept.status is InteractionStatus.COMPLETED
        with pytest.raises(InteractionClosedError):
            await people.respond(asked.request_id, "ann", approved=False)

    asyncio.run(story())
