"""`llmteam mining`: logs that pm4py reads, reports that say where time went, and logs that were edited."""

from __future__ import annotations

import gzip
import json
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from llmteam.canvas.ports import Ports
from llmteam.canvas.postgres import PostgresRunStore
from llmteam.db import Database
from llmteam.events.postgres import PostgresEventStore
from tests.acceptance.command_line import DONE, FAILED, UNREACHABLE, USAGE, CommandLine
from tests.conformance.desk import TENANT, Desk
from tests.drawing import draw
from tests.services import PostgresService, url_of

pytestmark = pytest.mark.timeout(180)

#: Real runs that are copied until there are this many.
RUNS = 1000
KINDS = 5
ORDER = draw(
    "take -> if_1", "if_1.true -> split_1", "split_1 -> pack -> all_1", "split_1 -> bill -> all_1", "all_1 -> send",
    "if_1.false -> refuse", "pack.error -> repack", segment_id="order",
)  # fmt: skip
#: Rows of a run once more under another name and at another time; the copies differ in nothing else.
COPY = """
INSERT INTO llmteam.runs SELECT (jsonb_populate_record(r, jsonb_build_object(
         'run_id', r.run_id || '-' || n, 'root_run_id', r.run_id || '-' || n,
         'created_at', r.created_at - n * interval '1 minute',
         'started_at', r.started_at - n * interval '1 minute',
         'finished_at', r.finished_at - n * interval '1 minute'))).*
  FROM llmteam.runs r, generate_series(1, %(copies)s) n WHERE r.segment_id = 'order';
INSERT INTO llmteam.run_steps SELECT (jsonb_populate_record(s, jsonb_build_object(
         'run_id', s.run_id || '-' || n, 'ready_at', s.ready_at - n * interval '1 minute'))).*
  FROM llmteam.run_steps s, generate_series(1, %(copies)s) n WHERE s.run_id LIKE 'order%%';
INSERT INTO llmteam.events SELECT (jsonb_populate_record(e, jsonb_build_object(
         'run_id', e.run_id || '-' || n, 'ts', e.ts - n * interval '1 minute'))).*
  FROM llmteam.events e, generate_series(1, %(copies)s) n WHERE e.run_id LIKE 'order%%'
"""


def play(desk: Desk) -> None:
    """Runs that go all ways: packed first, billed first, refused, packed anew, and with a retry."""
    for number in range(KINDS):
        desk.start(ORDER, run_id=f"order{number}", max_retries=1)
    for number, branches in ((0, ("pack", "bill")), (1, ("bill", "pack"))):
        desk.do(f"order{number}", "take")
        desk.do(f"order{number}", "if_1", answer=Ports({"true": 1}))
        desk.do(f"order{number}", "split_1", *branches, "all_1", "send")
    desk.do("order2", "take")
    desk.do("order2", "if_1", answer=Ports({"false": 1}))
    desk.do("order2", "refuse")
    desk.engine.failed(desk.claim("order3", "take"), ConnectionError("not now"))
    desk.do("order4", "take")


@pytest.fixture(scope="module")
def place(postgres: PostgresService, valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line, with a database of its own that has a thousand runs."""
    own = PostgresService(postgres.superuser_url, postgres.login_url)
    url = own.create()
    with closing(Database(url)) as database:
        play(Desk(PostgresRunStore(database), PostgresEventStore(database)))
        with database.hot(TENANT) as hot:
            hot.script(COPY, {"copies": RUNS // KINDS - 1})
    yield CommandLine(tmp_path_factory.mktemp("mining"), LLMTEAM_DATABASE_URL=url, LLMTEAM_BROKER_URL=valkey)
    own.drop_all()


@pytest.fixture(scope="module")
def log(place: CommandLine) -> Path:
    """All runs as XES."""
    done = place("mining", "export", "--tenant", TENANT, "--output", "all.xes")
    assert (done.returncode, done.stdout, done.stderr) == (DONE, "", "")
    return place.folder / "all.xes"


@pytest.fixture(scope="module")
def pm4py() -> Any:
    """The library; what its own code warns of while it is imported says nothing of logs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pm4py

    return pm4py


def completions(pm4py: Any, path: Path) -> Any:
    """The completions in a log. Any warning fails the test but the one that there is a faster reader."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Install the optional requirement", category=UserWarning)
        events = pm4py.read_xes(str(path))
    return pm4py.filter_event_attribute_values(events, "lifecycle:transition", ["complete"], level="event")


def elements(text: str, name: str) -> list[ET.Element]:
    return ET.fromstring(text).findall(f".//{{http://www.xes-standard.org/}}{name}")


def test_pm4py_reads_a_thousand_runs_and_discovers_a_model_that_they_fit(pm4py: Any, log: Path) -> None:
    done = completions(pm4py, log)

    model = pm4py.discover_petri_net_inductive(done)

    assert len(elements(log.read_text(), "trace")) == RUNS
    assert set(done["concept:name"]) == {"take", "if_1", "split_1", "pack", "bill", "all_1", "send", "refuse"}
    found = pm4py.fitness_token_based_replay(done, *model)
    assert (found["log_fitness"], found["perc_fit_traces"]) == (1.0, 100.0)


def test_pm4py_finds_a_log_that_was_edited(pm4py: Any, log: Path, tmp_path: Path) -> None:
    model = pm4py.discover_petri_net_inductive(completions(pm4py, log))
    text = log.read_text()
    events = re.findall("<event>.*?</event>\n", text, re.DOTALL)
    packed = next(event for event in events if '"pack"' in event and '"complete"' in event)
    edited = tmp_path / "edited.xes"
    edited.write_text(text.replace(packed, "", 1))

    found = pm4py.fitness_token_based_replay(completions(pm4py, edited), *model)

    assert found["log_fitness"] < 1.0
    assert found["percentage_of_fitting_traces"] < 100.0


def test_a_name_in_gz_is_compressed_and_standard_output_is_the_default(place: CommandLine, log: Path) -> None:
    place("mining", "export", "--tenant", TENANT, "-o", "all.xes.gz")
    shown = place("mining", "export", "--tenant", TENANT)

    with gzip.open(place.folder / "all.xes.gz", "rt", encoding="utf-8") as packed:
        assert packed.read() == log.read_text(encoding="utf-8")
    assert shown.stdout == log.read_text(encoding="utf-8")
    assert sorted(path.name for path in place.folder.glob("all*")) == ["all.xes", "all.xes.gz"]


def test_a_log_holds_the_wanted_runs_of_the_tenant_only(place: CommandLine) -> None:
    def traces(*options: str) -> int:
        done = place("mining", "export", "--tenant", TENANT, *options)
        assert done.returncode == DONE, done.stderr
        return len(elements(done.stdout, "trace"))

    assert traces("--segment", "order", "--since", "2000-01-01") == RUNS
    assert traces("--segment", "another") == 0
    assert traces("--until", "2000-01-01") == 0
    assert traces("--tenant", "globex") == 0


def test_a_report_tells_ways_and_waits_and_that_untouched_runs_fit(place: CommandLine) -> None:
    told = place.json("mining", "report", "--tenant", TENANT)

    assert (told["runs"], told["deviating"]) == (RUNS, 0)
    (order,) = told["segments"]
    share = RUNS // KINDS
    assert order["statuses"] == {"completed": 3 * share, "running": 2 * share}
    assert order["conformance"] == {
        "checked": RUNS, "fitting": RUNS, "without_definition": 0, "fitness": 1.0, "deviating": [],
    }  # fmt: skip
    ways = {(tuple(one["steps"]), one["status"]): one["runs"] for one in order["variants"]}
    packed = ("take", "if_1", "split_1", "pack", "bill", "all_1", "send")
    assert ways[packed, "completed"] == 2 * share, "the order of branches makes no variant"
    assert ways[("take", "if_1", "refuse"), "completed"] == share
    assert {"from": "if_1", "to": "refuse", "times": share} in order["edges"]
    assert order["seconds_by_cause"]["queue"] > 0
    assert order["metrics"]["completion_rate"] == 0.6
    assert order["metrics"]["retry_rate"] > 0


def test_a_report_says_the_same_in_words(place: CommandLine) -> None:
    done = place("mining", "report", "--tenant", TENANT)

    assert (done.returncode, done.stderr) == (DONE, "")
    assert f"{RUNS:,} of {RUNS:,} runs did what their definition allows; fitness 1.0000" in done.stdout
    assert re.search(r"^queue +.*due, waiting for a free worker$", done.stdout, re.MULTILINE)
    assert "take → if_1 → refuse" in done.stdout


class Page(HTMLParser):
    """What a page consists of, and whether every element ends where it should."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_has_its_pictures_in_it_and_loads_nothing(place: CommandLine) -> None:
    done = place("mining", "report", "--tenant", TENANT, "--html", "report.html")

    assert done.returncode == DONE, done.stderr
    text = (place.folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    pictures = [values for tag, values in page.found if tag == "svg"]
    assert [one["role"] for one in pictures] == ["img", "img"]
    ids = [values["id"] for _, values in page.found if "id" in values]
    assert len(ids) == len(set(ids))
    named = " ".join(values["aria-labelledby"] or "" for _, values in page.found if "aria-labelledby" in values)
    assert set(named.split()) <= set(ids)
    assert {"script", "link", "img", "iframe"} & {tag for tag, _ in page.found} == set()
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert "prefers-color-scheme:dark" in text


def test_events_that_were_taken_out_of_the_database_are_found_and_named(
    postgres: PostgresService, place: CommandLine
) -> None:
    url = place.env["LLMTEAM_DATABASE_URL"]
    with closing(Database(url)) as database:
        name = database.url.database or ""
    administrator = Database(url_of(postgres.superuser_url, name))
    edit = (
        "DELETE FROM llmteam.events WHERE run_id = 'order2-7' AND (step_id, event_type) = ('refuse', 'step.completed')"
    )
    with closing(administrator), administrator.login_transaction() as connection:
        before = connection.execute(text("SELECT * FROM llmteam.events WHERE run_id = 'order2-7' ORDER BY seq")).all()
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(edit))
    gone = next(row.seq for row in before if row.step_id == "refuse" and row.event_type == "step.completed")

    done = place("mining", "report", "--tenant", TENANT, "--json")
    shown = place("mining", "report", "--tenant", TENANT)

    assert (done.returncode, shown.returncode) == (FAILED, FAILED)
    (order,) = json.loads(done.stdout)["segments"]
    (found,) = order["conformance"]["deviating"]
    assert (found["run_id"], order["conformance"]["fitting"]) == ("order2-7", RUNS - 1)
    assert {"seq": gone + 1, "step_id": "", "what": f"event {gone} before it not there"} in found["deviations"]
    assert {"seq": None, "step_id": "refuse", "what": "visit 1 began and never ended"} in found["deviations"]
    assert re.search("^order2-7 .*visit 1 began and never ended$", shown.stdout, re.MULTILINE)


def test_a_tenant_mines_when_its_tier_or_its_licence_says_so(place: CommandLine) -> None:
    place("tenants", "create", "small", "--tier", "professional")

    refused = [place("mining", what, "--tenant", "small") for what in ("export", "report")]
    place("license", "set", "professional", "--tenant", "small")
    licensed = [place("mining", what, "--tenant", "small") for what in ("export", "report")]
    place("tenants", "update", "small", "--disable", "process_mining")
    disabled = place("mining", "report", "--tenant", "small")

    assert [done.returncode for done in (*refused, *licensed, disabled)] == [FAILED, FAILED, DONE, DONE, FAILED]
    assert "has not got the feature 'process_mining'" in refused[0].stderr
    assert refused[0].stdout == ""


def test_a_period_that_ends_before_it_begins_and_a_server_that_is_away_are_told(place: CommandLine) -> None:
    turned = place("mining", "export", "--since", "2026-02-01", "--until", "2026-01-01")
    away = place("mining", "export", "-o", "none.xes", LLMTEAM_DATABASE_URL="postgresql://me@127.0.0.1:9/x")

    assert (turned.returncode, away.returncode) == (USAGE, UNREACHABLE)
    assert "the period ends before it begins" in turned.stderr
    assert list(place.folder.glob("none*")) == []
