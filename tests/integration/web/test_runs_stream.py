"""Following a run over real connections, Postgres and Valkey: each event once, in order, as soon as it happens."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from llmteam.events.models import EventDraft, EventQuery, EventScope, EventType, WorktrailEvent
from llmteam.events.postgres import append_in
from llmteam.human.links import Access
from llmteam.ids import utc_now
from llmteam.wakeup import channel
from tests.following import Follower, Told, refused
from tests.integration.test_round_trips import counted
from tests.integration.web.runs_site import RunsSite, row, runs_site
from tests.site import Api
from tests.waiting import wait_until

#: A look that no test lives to see: only wake-ups move the followers.
NEVER = 3600.0
STEPS = [f"s{number}" for number in range(12)]


@pytest.fixture
def place(database_url: str, clean_valkey: str) -> Iterator[RunsSite]:
    with runs_site(database_url, clean_valkey, poll_seconds=NEVER) as place:
        yield place


def stored(place: RunsSite, run_id: str) -> list[WorktrailEvent]:
    return place.worker.events.select(EventQuery(tenant_id="acme", run_id=run_id))


def followers(place: RunsSite, run_id: str) -> int:
    return len(place.stream._followers.get(run_id, ()))


def note(place: RunsSite, run_id: str, count: int = 1, text: str = "") -> None:
    """Events beside those of the engine, from another process."""
    draft = EventDraft(EventType.ACTION_STARTED, payload={"text": text})
    event = draft.stamp(EventScope("acme", run_id), utc_now())
    for _ in range(count):
        place.worker.events.add([event])


def batch(place: RunsSite, run_id: str, count: int) -> None:
    """Events that are there all at once."""
    database = place.worker.events._database  # type: ignore[attr-defined]
    with database.tenant_transaction("acme") as connection:
        append_in(connection, "acme", run_id, [EventDraft(EventType.ACTION_STARTED)] * count, now=utc_now())
    place.worker.wakeup.notify(channel("acme", run_id))


@contextmanager
def sleeping(place: RunsSite, run_id: str) -> Iterator[socket.socket]:
    """A client that asks for a stream and takes nothing of it."""
    where = urlsplit(place.site.url)
    with socket.socket() as sleeper:
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleeper.connect((where.hostname, where.port))
        head = f"GET /api/runs/{run_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {place.api().token}\r\n\r\n"
        sleeper.sendall(head.encode())
        wait_until(lambda: followers(place, run_id) == 1, "the sleeper to be served")
        yield sleeper


def assert_whole(told: list[Told], events: list[WorktrailEvent], after: int = 0) -> None:
    """Everything behind number ``after`` came, once and in order, as it is stored."""
    wanted = [event for event in events if (event.seq or 0) > after]
    assert [one.number for one in told] == [event.seq for event in wanted]
    assert [one.kind for one in told] == [event.event_type.value for event in wanted]
    assert [one.document for one in told] == [event.to_dict() for event in wanted]


def test_followers_beside_writers_are_told_everything_once_in_order_until_the_end(place: RunsSite) -> None:
    run_id = place.start(row(*STEPS))

    def follow(number: int) -> list[Told]:
        with Follower(place.api(), run_id) as follower:
            return list(follower)

    with ThreadPoolExecutor(8) as pool:
        early = [pool.submit(follow, number) for number in range(3)]
        notes = [pool.submit(note, place, run_id, 30) for _ in range(2)]
        place.do(run_id, *STEPS[:6])
        late = [pool.submit(follow, number) for number in range(2)]
        for one in notes:
            one.result()
        place.do(run_id, *STEPS[6:])
        told = [one.result() for one in (*early, *late)]

    events = stored(place, run_id)
    assert len(events) > 60 + 2 * len(STEPS)
    for one in told:
        assert_whole(one, events)
    assert told[0][-1].kind == "segment.completed"
    wait_until(lambda: followers(place, run_id) == 0, "everybody to be gone")


def test_a_follower_hears_of_each_event_as_it_happens(place: RunsSite) -> None:
    run_id = place.start(row("a", "b"))

    with Follower(place.api(), run_id) as follower:
        assert follower.response.headers["content-type"].startswith("text/event-stream")
        assert follower.response.headers["cache-control"] == "no-store"
        known = follower.take(len(stored(place, run_id)))
        assert follower.retry == 1000
        place.do(run_id, "a")
        more = follower.take(len(stored(place, run_id)) - len(known))

        assert_whole(known + more, stored(place, run_id))
        assert "step.completed" in {one.kind for one in more}


def test_a_history_of_many_batches_comes_without_a_wake_up(place: RunsSite) -> None:
    run_id = place.start(row("a"))
    batch(place, run_id, 500)
    place.do(run_id, "a")

    with Follower(place.api(), run_id) as follower:
        assert_whole(list(follower), stored(place, run_id))


@pytest.mark.parametrize("by", ["header", "query", "header before query"])
def test_a_cut_connection_goes_on_without_a_gap_or_a_double(place: RunsSite, by: str) -> None:
    run_id = place.start(row("a", "b"))
    note(place, run_id, 3)
    with Follower(place.api(), run_id) as follower:
        seen = follower.take(2)
    note(place, run_id, 5)
    wait_until(lambda: followers(place, run_id) == 0, "the server to notice")
    last = str(seen[-1].number)
    how = {
        "header": {"last_event_id": last},
        "query": {"after": int(last)},
        "header before query": {"last_event_id": last, "after": 0},
    }[by]

    with Follower(place.api(), run_id, **how) as follower:  # type: ignore[arg-type]
        place.do(run_id, "a", "b")
        seen += list(follower)

    assert_whole(seen, stored(place, run_id))


def test_who_has_seen_the_end_is_told_not_to_come_back(place: RunsSite) -> None:
    run_id = place.start(row("a"))
    place.do(run_id, "a")
    events = stored(place, run_id)

    with Follower(place.api(), run_id, last_event_id=str(len(events))) as follower:
        assert follower.response.status_code == 204
    with Follower(place.api(), run_id, last_event_id=str(len(events) - 1)) as follower:
        assert_whole(list(follower), events, len(events) - 1)
    with Follower(place.api(), run_id) as follower:
        assert_whole(list(follower), events)


def test_a_run_that_is_cancelled_over_the_api_ends_its_streams(place: RunsSite) -> None:
    run_id = place.start(row("a"))

    with Follower(place.api(), run_id) as follower:
        follower.take(1)
        assert place.api().post(f"/runs/{run_id}/cancel").status_code == 200

        assert list(follower)[-1].kind == "segment.cancelled"


def test_another_tenant_is_told_nothing(place: RunsSite) -> None:
    run_id = place.start(row("a"))

    told = refused(place.api(tenant="globex").get(f"/runs/{run_id}/events"), 404)

    assert "No run" in told["detail"]
    assert followers(place, run_id) == 0


@pytest.mark.parametrize(
    "bad", [{"last_event_id": "x"}, {"last_event_id": "-1"}, {"last_event_id": "9" * 20}, {"after": -1}]
)
def test_a_place_that_is_none_is_refused(place: RunsSite, bad: dict[str, str]) -> None:
    run_id = place.start(row("a"))

    with Follower(place.api(), run_id, **bad) as follower:  # type: ignore[arg-type]
        refused(follower.response, 422)


def test_many_followers_are_a_watch_each_and_no_thread_each(place: RunsSite) -> None:
    run_id = place.start(row("a"))
    with ExitStack() as stack:
        first = [stack.enter_context(Follower(place.api(), run_id)) for _ in range(4)]
        for follower in first:
            follower.take(1)
        before = threading.active_count()
        more = [stack.enter_context(Follower(place.api(), run_id)) for _ in range(40)]
        for follower in more:
            follower.take(1)

        wait_until(lambda: followers(place, run_id) == 44, "everybody to follow")
        assert threading.active_count() - before < 12, "threads that look into the database are shared"
        watches = place.runs.wakeup._registry._watches  # type: ignore[attr-defined]
        assert len(watches[channel("acme", run_id)]) == 44

    wait_until(lambda: followers(place, run_id) == 0, "the server to let go of all")
    assert channel("acme", run_id) not in watches


def test_a_batch_costs_one_look_however_many_events_it_has(place: RunsSite) -> None:
    run_id = place.start(row("a"))
    store, database = place.runs.events, place.runs.events._database  # type: ignore[attr-defined]
    known = len(stored(place, run_id))

    with Follower(place.api(), run_id, after=known) as follower:

        def cost(events: int) -> int:
            """Round trips of the follower for a batch; the least, as a doubled wake-up costs a look in vain."""
            found = []
            for _ in range(5):
                before = database.round_trips
                batch(place, run_id, events)
                follower.take(events)
                found.append(database.round_trips - before)
            return min(found)

        costs = [cost(events) for events in (1, 20, 150)]

    with counted(database) as one_look:
        store.select(EventQuery(tenant_id="acme", run_id=run_id, after_seq=known, limit=200))
    assert costs == [one_look[0]] * 3


def test_a_client_that_takes_nothing_holds_one_batch_and_stops_nobody(place: RunsSite) -> None:
    run_id = place.start(row("a"))
    note(place, run_id, 300, "x" * 60_000)
    with sleeping(place, run_id):
        with Follower(place.api(), run_id) as follower:
            place.do(run_id, "a")
            assert_whole(list(follower), stored(place, run_id))
        (held,) = place.stream._followers[run_id]
        assert held.seq <= 200, "the second batch is not read before the first is taken"

    wait_until(lambda: followers(place, run_id) == 0, "the sleeper to be forgotten")


def test_a_client_that_takes_nothing_for_long_is_cut_off(place: RunsSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmteam.web.following.STALLED_SECONDS", 0.2)
    run_id = place.start(row("a"))
    note(place, run_id, 200, "x" * 60_000)

    with sleeping(place, run_id) as sleeper:
        wait_until(lambda: place.runs.wakeup._registry.channels() == set(), "the server to let go of it")  # type: ignore[attr-defined]
        assert sleeper.fileno() > 0, "the client has not gone by itself"


def test_a_stream_ends_with_the_access_of_who_asked(database_url: str, clean_valkey: str) -> None:
    with runs_site(database_url, clean_valkey, poll_seconds=0.05) as place:
        run_id = place.start(row("a"))
        until = utc_now() + timedelta(seconds=2)
        token = place.site.parts.signer.sign_access(Access("acme", "olga", ("operators",), until))

        with Follower(Api(place.site.url, token), run_id) as follower:
            told = list(follower)

        assert utc_now() >= until.replace(microsecond=0), "a token knows whole seconds"
        assert_whole(told, stored(place, run_id))
        assert follower.comments, "it told that it was there"
        refused(Api(place.site.url, token).get(f"/runs/{run_id}/events"), 401)


def test_a_follower_outlives_an_outage_of_the_database(
    database_url: str, clean_valkey: str, monkeypatch: pytest.MonkeyPatch, postgres: object
) -> None:
    monkeypatch.setattr("llmteam.web.following.RETRY_SECONDS", 0.05)
    with runs_site(database_url, clean_valkey, poll_seconds=0.05) as place:
        run_id = place.start(row("a"))
        name = database_url.rpartition("/")[2].partition("?")[0]
        with Follower(place.api(), run_id) as follower:
            told = follower.take(1)
            postgres.as_superuser(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')  # type: ignore[attr-defined]
            kick = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            postgres.as_superuser(kick)  # type: ignore[attr-defined]
            wait_until(lambda: place.api().get(f"/runs/{run_id}").status_code == 503, "the outage")
            postgres.as_superuser(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')  # type: ignore[attr-defined]
            wait_until(lambda: place.api().get(f"/runs/{run_id}").status_code == 200, "the database")
            place.do(run_id, "a")
            told += list(follower)

        assert_whole(told, stored(place, run_id))


def test_streams_end_when_the_server_stops(place: RunsSite) -> None:
    run_id = place.start(row("a"))

    with Follower(place.api(), run_id) as follower:
        follower.take(1)
        place.site.parts.leave()

        assert all(one.kind for one in follower)
    wait_until(lambda: followers(place, run_id) == 0, "nobody to follow")
