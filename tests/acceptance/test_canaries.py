"""A secret and the number of a card that steps are given, seal, and mistreat in every way are found nowhere afterwards,
except encrypted: in no table, queue, result, log, event, export or snapshot, and not by Flower.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

import psycopg2
import pytest
import requests
from sqlalchemy import make_url

from llmteam import tracing
from llmteam.canvas import RunConfig, SegmentDefinition
from llmteam.context import Contexts, PostgresContextStore
from llmteam.crypto import MasterKeys
from llmteam.keys import PostgresKeyStore, TenantKeys
from llmteam.masking import MASK
from tests import canaries
from tests.acceptance.command_line import Started
from tests.acceptance.place import TENANT, Place, place
from tests.collector import Collector, collecting
from tests.drawing import draw
from tests.services import PostgresService, redis_client, url_of
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

MASTER = ("first", b"\x07" * 32)
#: Who may look at Flower.
VIEWER = ("viewer", "a password of this test")
CANARY = f"canary-{secrets.token_hex(12)}"


def card_number() -> str:
    """Sixteen digits of which the last is right (ISO/IEC 7812-1, annex B)."""
    digits = [4, *(secrets.randbelow(10) for _ in range(14))]
    doubled = [sum(divmod(digit * 2, 10)) if place % 2 == 0 else digit for place, digit in enumerate(digits)]
    return "".join(map(str, [*digits, -sum(doubled) % 10]))


CARD = card_number()


@dataclass
class Cage:
    """A place whose workers know the canary, and what they did with it: the end of each run by its way.

    ``flower`` is where Flower has listened from the beginning, ``paused`` a run that stands still, with its snapshot.
    """

    place: Place
    superuser_url: str
    workers: Started
    flower: str
    collector: Collector
    runs: dict[str, str] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    paused: str = ""


def misused(how: str) -> SegmentDefinition:
    late = {"timeout_seconds": 1} if how == "late" else {}
    config = {"seal": {"how": ""}, "do": {"how": how, **late}}
    return draw("seal -> do", work="careless", config=config, segment_id=f"canary_{how}")


@pytest.fixture(scope="module")
def cage(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cage]:
    """Every way was gone when this is there: on processes, and those that an ``async`` handler can go on threads."""
    with redis_client(valkey) as client:
        client.flushdb()
    folder = tmp_path_factory.mktemp("canary")
    (folder / "secrets").mkdir()
    (folder / "secrets" / canaries.SECRET).write_text(CANARY)
    (folder / "secrets" / canaries.CARD).write_text(CARD)
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    url = own.create()
    variables = {
        "LLMTEAM_IMPORTS": "tests.canaries,tests.failpoints",
        "LLMTEAM_ENCRYPTION_KEYS": f"first:{base64.b64encode(MASTER[1]).decode()}",
        "LLMTEAM_LOG_LEVEL": "DEBUG",
        canaries.VARIABLE: str(folder / "secrets"),
    }
    port = free_port()
    with (
        collecting() as collector,
        place(folder, url, valkey, **variables, LLMTEAM_TRACES=collector.url) as here,
        here.line.started("flower", "--port", str(port), FLOWER_BASIC_AUTH=":".join(VIEWER)),
        here.line.started("worker", "--concurrency", "4") as workers,
    ):
        canaries.register(here.runs.catalog)
        workers.wait_for("ready: llmteam.control", timeout=60)
        superuser_url = url_of(postgres.superuser_url, make_url(url).database or "")
        cage = Cage(here, superuser_url, workers, f"http://127.0.0.1:{port}", collector)
        listening = "Events of group {task} enabled by remote"
        wait_until(lambda: workers.output().count(listening) >= 3, "Flower to listen to the workers", timeout=60)
        start_all(cage)
        pause_one(cage)
        yield cage
    tracing.set_up()
    own.drop_all()


def start_all(cage: Cage) -> None:
    client = cage.place.client
    patient = RunConfig(max_retries=1, retry_delay=0.05)
    for how in (*canaries.WAYS, *canaries.KILLS):
        config = patient if how == "retry" else RunConfig(max_retries=0)
        cage.runs[how] = cage.place.start(misused(how), config=config)
    for how in ("raise", "return_text", "late", "log"):
        segment = draw("do", work="careless_io", config={"do": {"how": how, "timeout_seconds": 1}}, segment_id="io")
        cage.runs[f"{how} on a loop"] = cage.place.start(segment, config=RunConfig(max_retries=0))
    for how, run_id in cage.runs.items():
        result = client.result(run_id, timeout=90, events=True)
        cage.ends[how] = result.status.value


def pause_one(cage: Cage) -> None:
    """A run whose step has sealed both, and that waits for a person, is paused: its snapshot is taken."""
    segment = draw("seal -> human_1", work="careless", config={"seal": {"how": ""}}, segment_id="paused")
    cage.paused = cage.place.start(segment)
    wait_until(lambda: cage.place.states(cage.paused).get("human_1") == "waiting", "the step to ask", timeout=60)
    assert cage.place.runs.surgery.pause(TENANT, cage.paused)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def seen_by_flower(cage: Cage, path: str) -> bytes:
    """What Flower answers; nothing while it does not listen, or has nothing to show."""
    try:
        response = requests.get(cage.flower + path, auth=VIEWER, timeout=20)
    except requests.ConnectionError:
        return b""
    return response.content if response.status_code == 200 and response.content not in (b"{}", b"") else b""


def forms() -> dict[str, bytes]:
    """How the two might stand somewhere; a part of them is enough."""
    part, digits = CANARY[7:23], CARD[2:14]
    return {
        "plain": part.encode(),
        "base64": base64.b64encode(CANARY.encode())[4:-4],
        "hex": CANARY.encode().hex().encode()[8:-8],
        "quoted": quote(CANARY)[7:23].encode(),
        "backwards": part[::-1].encode(),
        "as the card's digits": digits.encode(),
        "as the card's digits in fours": " ".join(CARD[start : start + 4] for start in (4, 8, 12)).encode(),
        "as the card's digits in base64": base64.b64encode(CARD.encode())[4:-4],
        "as the card's digits in hex": CARD.encode().hex().encode()[4:-4],
        "as the card's digits backwards": digits[::-1].encode(),
    }


def assert_not_in(content: bytes, where: str) -> None:
    for form, text in forms().items():
        at = content.find(text)
        around = content[max(0, at - 200) : at + 60].replace(text, b"<CANARY>")
        assert at < 0, f"the canary stands, {form}, in {where}: {around!r}"


def rows_of(url: str) -> dict[str, bytes]:
    """Everything in every table of every schema of the database that is not the server's own."""
    connection = psycopg2.connect(url.replace("+psycopg2", ""))
    try:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        tables = [f'"{schema}"."{name}"' for schema, name in cursor.fetchall()]
        found = {}
        for table in tables:
            cursor.execute(f"SELECT t::text FROM {table} t")
            found[table] = "\n".join(row[0] for row in cursor.fetchall()).encode()
        return found
    finally:
        connection.close()


def keys_of(url: str) -> dict[str, bytes]:
    """Every key of every logical database of the server, with what it holds."""
    found = {}
    with redis_client(url) as client:
        for key in client.scan_iter(count=1000):
            found[repr(key)] = key + (client.dump(key) or b"")
    return found


def test_every_way_ended_as_it_should(cage: Cage) -> None:
    loop = {
        f"{how} on a loop": "completed" if how == "log" else "failed" for how in ("raise", "return_text", "late", "log")
    }

    assert cage.ends == canaries.WAYS | canaries.KILLS | loop


def test_no_table_holds_it(cage: Cage) -> None:
    found = rows_of(cage.superuser_url)

    for table, content in found.items():
        assert_not_in(content, table)
    assert {'"llmteam"."runs"', '"llmteam"."events"', '"llmteam"."audit_log"', '"llmteam"."agent_contexts"'} <= set(
        found
    )
    # The search looks where the canary's neighbour is.
    marker = canaries.MARKER.encode()
    for table in ("run_steps", "events", "agent_contexts", "runs"):
        assert marker in found[f'"llmteam"."{table}"'], table
    assert f"{canaries.MARKER} {MASK} {MASK}".encode() in found['"llmteam"."events"']


def test_it_is_there_encrypted_and_opens_with_the_tenants_key(cage: Cage) -> None:
    found = rows_of(cage.superuser_url)['"llmteam"."agent_contexts"']
    keys = TenantKeys(PostgresKeyStore(cage.place.database), MasterKeys([MASTER]))
    contexts = Contexts(PostgresContextStore(cage.place.database), keys.vault)

    assert len(re.findall(rb"s1\.[0-9a-f-]{36}\.", found)) >= 2 * len(canaries.WAYS)
    with contexts.open(TENANT, cage.runs["tell_nobody"], "seal") as context:
        assert context.get_sealed("card") == CARD
        assert context.get_sealed("deep") == {"list": [CANARY]}


def test_the_broker_never_held_it(cage: Cage) -> None:
    for key, content in keys_of(cage.place.broker_url).items():
        assert_not_in(content, key)


def test_no_log_shows_it(cage: Cage) -> None:
    logs = {path.name: path.read_bytes() for path in cage.place.line.folder.glob("output-*.log")}

    for name, content in logs.items():
        assert_not_in(content, name)
    text = b"".join(logs.values()).decode(errors="replace")
    assert f"{canaries.MARKER} {MASK} {MASK}" in text
    assert f"ValueError: {canaries.MARKER} {MASK} {MASK}" in text
    assert "a traceback with" in text
    assert re.search(r"llmteam\.telemetry: Thread-\d+ \(_fail\) ended", text)


def test_no_span_holds_it(cage: Cage) -> None:
    """Processes that are killed take the spans of their last second along, so that not every run is told of."""

    def told() -> int:
        return sum(any(one.name.startswith("run ") for one in cage.collector.of_run(run)) for run in cage.runs.values())

    wait_until(lambda: told() >= len(cage.runs) // 2, "traces of the runs", timeout=30)
    content = b"".join(cage.collector.bodies)

    assert_not_in(content, "what the collector received")
    assert canaries.MARKER.encode() not in content
    assert b"ValueError" in content


def test_no_event_result_view_or_explanation_shows_it(cage: Cage) -> None:
    line = cage.place.line
    for how, run_id in cage.runs.items():
        result = cage.place.client.result(run_id, events=True)
        shown = [repr(result), *(event.model_dump_json() for event in result.events)]
        shown.append(repr(cage.place.store.contexts.views(TENANT, run_id)))
        assert_not_in("\n".join(shown).encode(), f"what is told of {how}")
    for arguments in (("explain", cage.runs["raise_long"]), ("runs", "show", cage.runs["raise_long"], "--json")):
        done = line(*arguments)
        assert_not_in((done.stdout + done.stderr).encode(), " ".join(arguments))
        assert "ValueError" in done.stdout


def test_flower_never_saw_it(cage: Cage) -> None:
    pages = ("/api/tasks?limit=100000", "/api/workers?refresh=true", "/workers", "/tasks?limit=1000", "/broker")
    found = {page: seen_by_flower(cage, page) for page in pages}
    tasks = json.loads(found["/api/tasks?limit=100000"])
    found |= {f"/task/{task_id}": seen_by_flower(cage, f"/task/{task_id}") for task_id in tasks}

    for page, content in found.items():
        assert content, f"{page} shows nothing"
        assert_not_in(content, page)
    # Flower was there when it happened: it has the tasks of all runs.
    for how, run_id in cage.runs.items():
        assert run_id.encode() in found["/api/tasks?limit=100000"], how


def test_no_export_report_or_snapshot_holds_it(cage: Cage) -> None:
    line = cage.place.line
    exports = [("tenants", "export", TENANT), ("audit", "export"), ("audit", "report", "--records", "--json")]
    exports += [("runs", "list", "--json"), ("inbox", "list", "--json")]
    for run_id in (cage.paused, cage.runs["raise"], cage.runs["return_text"], cage.runs["tell_nobody"]):
        exports += [("runs", "show", run_id, "--json"), ("explain", run_id, "--json"), ("explain", run_id)]

    shown = {" ".join(arguments): line(*arguments) for arguments in exports}

    for what, done in shown.items():
        assert done.returncode == 0, (what, done.stderr)
        assert_not_in((done.stdout + done.stderr).encode(), what)
    # Sealed values are exported sealed, and the snapshot is among what is exported.
    everything = shown[f"tenants export {TENANT}"].stdout
    assert len(re.findall(r"s1\.[0-9a-f-]{36}\.", everything)) >= 2 * len(canaries.WAYS)
    assert '{"table": "snapshots"' in everything
    assert cage.paused in everything
    assert canaries.MARKER in everything


def test_errors_keep_what_is_not_secret(cage: Cage) -> None:
    error = cage.place.client.result(cage.runs["raise"]).error
    coded = cage.place.client.result(cage.runs["raise_coded"]).error

    assert error is not None
    assert error.error_message == f"{canaries.MARKER} {MASK} {MASK}"
    assert coded is not None
    assert coded.error_code == f"{canaries.MARKER} {MASK} {MASK}"


def test_every_read_of_it_is_in_the_audit_trail(cage: Cage) -> None:
    columns = "event_type, actor_id, resource_id, success"
    query = f"""SELECT {columns} FROM llmteam.audit_log
                 WHERE run_id = %s AND event_type LIKE %s ORDER BY sequence_number"""

    def told(how: str) -> list[tuple[object, ...]]:
        with cage.place.database.hot(TENANT) as hot:
            return hot.script(query, (cage.runs[how], "security.%")) or []

    granted, sealed, denied = (
        f"security.{name}" for name in ("access_granted", "sealed_data_accessed", "access_denied")
    )
    assert told("tell_nobody") == [
        (granted, "seal", "card-number", True),
        (granted, "seal", "canary", True),
        (granted, "do", "card-number", True),
        (sealed, "do", "do:card", True),
        (granted, "do", "canary", True),
    ]
    assert told("not_allowed")[-1] == (denied, "do", "forbidden", False)
    assert (denied, "(onlooker) as seal", "seal:card", False) in told("other_step")
