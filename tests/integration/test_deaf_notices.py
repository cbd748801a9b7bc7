"""What is kept about workers that went deaf."""

from __future__ import annotations

from datetime import timedelta

from llmteam.ids import utc_now
from llmteam.tasks import notices
from llmteam.tasks.notices import Notice
from tests.services import redis_client


def notice(number: int) -> Notice:
    return Notice(f"worker-{number}", utc_now().isoformat(), {"llmteam.io": number})


def test_the_newest_are_kept_for_a_while_and_read_latest_first(clean_valkey: str) -> None:
    written = [notice(number) for number in range(notices.KEPT + 5)]

    with redis_client(clean_valkey) as client:
        for one in written:
            notices.leave(client, one)

        assert notices.read(client) == written[: -notices.KEPT - 1 : -1]
        assert 0 < client.ttl(client.keys("*")[0]) <= notices.KEPT_SECONDS


def test_what_somebody_else_wrote_there_is_left_out(clean_valkey: str) -> None:
    with redis_client(clean_valkey) as client:
        notices.leave(client, notice(1))
        (key,) = client.keys("*")
        client.lpush(key, "garbage", '{"worker": "w"}', '{"worker": "w", "at": "yesterday", "waiting": {}}', b"\xff")

        assert [one.worker for one in notices.read(client)] == ["worker-1"]


def test_a_notice_has_an_age_and_a_total() -> None:
    now = utc_now()
    one = Notice("w", (now - timedelta(minutes=2)).isoformat(), {"llmteam.io": 2, "llmteam.llm": 3})

    assert (one.age(now), one.total) == (120.0, 5)
