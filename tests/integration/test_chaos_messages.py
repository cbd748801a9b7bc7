"""Messages are doubled, dropped and shuffled in a real Valkey, and none is made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from chaos.messages import Messages
from llmteam.dispatch import DEFAULT_QUEUE, IO_QUEUE
from tests.services import redis_client

SENT = [(queue, f"{queue} {number}".encode()) for queue in (IO_QUEUE, DEFAULT_QUEUE) for number in range(10)]


@pytest.fixture
def messages(clean_valkey: str) -> Iterator[Messages]:
    harm = Messages(clean_valkey)
    with redis_client(clean_valkey) as client:
        for queue, message in SENT:
            client.lpush(queue, message)
    yield harm
    harm.close()


def lying(url: str) -> list[tuple[str, bytes]]:
    with redis_client(url) as client:
        return [(queue, message) for queue in (IO_QUEUE, DEFAULT_QUEUE) for message in client.lrange(queue, 0, -1)]


def test_doubled_messages_come_twice_and_once_more_the_next_time(messages: Messages, clean_valkey: str) -> None:
    assert messages.double() == 20
    assert Counter(lying(clean_valkey)) == Counter(SENT * 2)

    messages.flush()

    assert messages.double() == 20
    assert Counter(lying(clean_valkey)) == Counter(SENT)


def test_dropped_messages_are_gone(messages: Messages, clean_valkey: str) -> None:
    assert messages.drop() == 20

    assert lying(clean_valkey) == []


def test_shuffled_messages_are_the_same_in_another_order(messages: Messages, clean_valkey: str) -> None:
    before = lying(clean_valkey)

    assert messages.reorder(1) == 20

    assert lying(clean_valkey) != before
    assert Counter(lying(clean_valkey)) == Counter(before)


def test_a_server_that_is_away_does_not_answer(clean_valkey: str) -> None:
    gone = Messages(clean_valkey.replace("127.0.0.1", "127.0.0.2"))

    assert not gone.answers()
    gone.close()
