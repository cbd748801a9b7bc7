"""The documents say what is: every block is run, every table that lists something is held against the thing itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from llmteam.canvas import StepCatalog, compile_expression
from llmteam.canvas.schema_check import COMMON_KEYS
from llmteam.metrics import METRICS
from llmteam.metrics.models import Metric
from llmteam.settings import Settings
from tests.blocks import Block, blocks_of
from tests.forking import fork_server
from tests.scenario import ROOT, Scenario, scenario
from tests.services import PostgresService

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
EVERYTHING = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES, *sorted((DOCS / "adr").glob("*.md"))]

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


@pytest.fixture
def reader(page: Path, postgres: PostgresService, clean_valkey: str) -> Iterator[Scenario]:
    """Commands of its blocks are forked, except on the page that a newcomer follows."""
    programs = None if page.name == "quickstart.md" else fork_server().program()

    def servers() -> dict[str, str]:
        return {"LLMTEAM_DATABASE_URL": postgres.create(), "LLMTEAM_BROKER_URL": clean_valkey}

    with scenario(servers, programs) as reader:
        yield reader
    postgres.drop_all()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_does_what_it_says(page: Path, reader: Scenario) -> None:
    reader.play(page)


def rows(page: str, marker: str) -> list[list[str]]:
    """The cells of the table behind a marker comment, or with such a header, without their header."""
    text = (DOCS / page).read_text(encoding="utf-8")
    table = text.partition(marker)[2].lstrip("\n").partition("\n\n")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    lines = lines[2:] if marker.startswith("<!--") else lines[1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def codes_in(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def test_expressions_give_what_the_table_says() -> None:
    table = rows("segments.md", "| expression | document | value |\n")
    assert len(table) > 5

    for row in table:
        expression, document, value = (codes_in(cell)[0] for cell in row)
        assert compile_expression(expression).evaluate(json.loads(document)) == json.loads(value), expression


def test_every_built_in_step_type_is_described_with_all_that_it_takes() -> None:
    described = {codes_in(row[0])[0]: row for row in rows("segments.md", "<!-- types -->")}
    catalog = StepCatalog.get_instance()

    builtin = [metadata for metadata in catalog.list_types() if metadata.type_id in described]
    assert len(builtin) == len(described) == 8
    for metadata in builtin:
        keys = set(metadata.config_schema["properties"]) - set(COMMON_KEYS)
        ports = {port.name for port in (*metadata.input_ports, *metadata.output_ports)}
        _, _, configuration, around = described[metadata.type_id]
        assert keys <= set(codes_in(configuration)), metadata.type_id
        assert ports == set(codes_in(around)), metadata.type_id


def test_every_code_of_validation_is_explained() -> None:
    explained = [code for row in rows("segments.md", "<!-- codes -->") for code in codes_in(row[0])]
    raised = {
        code
        for path in (ROOT / "llmteam/canvas").glob("*.py")
        for code in re.findall(
            r'(?:Problem|\.error|\.warning|\bsay)\(\s*"([A-Z_]+)"|code = "([A-Z_]+)" if .* else "([A-Z_]+)"',
            path.read_text(encoding="utf-8"),
        )
    }

    assert sorted(explained) == sorted({one for found in raised for one in found if one})


def test_every_package_has_its_line_in_the_architecture() -> None:
    listed = {codes_in(row[0])[0] for row in rows("architecture.md", "<!-- packages -->")}
    folders = {path.parent.name for path in (ROOT / "llmteam").glob("*/__init__.py")}

    assert listed == {f"llmteam.{name}" for name in folders}


def test_what_the_audit_trail_is_said_to_tell_is_shown_by_tests_that_are_there() -> None:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    files = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    known = {name for text in files for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)}

    rows = [line for line in page.splitlines() if line.startswith("|") and "`test_" in line]

    assert len(rows) >= 18
    assert {name for row in rows for name in re.findall(r"`(test_\w+)`", row)} <= known


def test_every_setting_is_listed_with_its_default() -> None:
    listed = {codes_in(row[0])[0]: row[1].strip("`") for row in rows("operations.md", "<!-- settings -->")}

    assert listed == {name: shown for name, shown, _ in Settings.load({}).sources()}


@pytest.mark.parametrize("page", EVERYTHING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as web sites that show Markdown make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_blocks_stand_under_a_heading_and_have_a_language() -> None:
    for page in EVERYTHING:
        for block in blocks_of(page):
            assert block.heading, block.where
            assert block.language, block.where


def test_exit_codes_are_those_of_the_command_line() -> None:
    from llmteam.cli import codes

    listed = [int(codes_in(row[0])[0]) for row in rows("operations.md", "<!-- exits -->")]

    assert listed == [codes.DONE, codes.FAILED, codes.USAGE, codes.UNREACHABLE]


def commands() -> dict[str, click.Command]:
    """Every command of the command line by its words, groups included."""
    from llmteam.cli.main import cli

    found: dict[str, click.Command] = {"llmteam": cli}
    for words, command in found.copy().items():
        found.update(_below(words, command))
    return found


def _below(words: str, command: click.Command) -> dict[str, click.Command]:
    found = {}
    for name, child in getattr(command, "commands", {}).items():
        found[f"{words} {name}"] = child
        found.update(_below(f"{words} {name}", child))
    return found


def spoken() -> list[str]:
    """Everything between backticks, or in a shell block, that begins with ``llmteam``."""
    lines = [line for page in (ROOT / "README.md", *PAGES) for line in page.read_text(encoding="utf-8").splitlines()]
    inline = [code for line in lines for code in codes_in(line) if code.startswith("llmteam ")]
    return inline + [line for line in lines if line.startswith("llmteam ")]


def test_every_command_that_is_spoken_of_is_there_with_its_options() -> None:
    known = commands()

    for text in spoken():
        words = text.split()
        name = "llmteam"
        while len(words) > name.count(" ") + 1 and f"{name} {words[name.count(' ') + 1]}" in known:
            name = f"{name} {words[name.count(' ') + 1]}"
        assert name != "llmteam", text
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, text


def test_every_command_that_an_explanation_advises_is_there() -> None:
    known = commands()
    texts = [
        (ROOT / "llmteam/canvas" / name).read_text(encoding="utf-8") for name in ("explain.py", "explain_steps.py")
    ]
    advised = {found for text in texts for found in re.findall(r"(?<!`)`(llmteam [^`\n]+)`", text)}
    assert len(advised) >= 5

    for text in advised:
        words = [word for word in text.split() if word[0] not in "-{"]
        assert " ".join(words) in known, text


def test_every_command_is_spoken_of() -> None:
    text = "\n".join(spoken())

    silent = [name for name, command in commands().items() if not isinstance(command, click.Group) and name not in text]

    assert silent == []


def test_every_metric_is_listed_with_its_kind_and_labels() -> None:
    listed = {codes_in(row[0])[0]: (row[1], codes_in(row[2])) for row in rows("operations.md", "<!-- metrics -->")}

    assert listed == {metric.name: (metric.kind, list(metric.label_names)) for metric in METRICS}


def test_alerts_and_scrapes_are_rules_of_prometheus_about_metrics_that_are_there() -> None:
    written = {block.comment: yaml.safe_load(block.text) for block in yaml_blocks("operations.md")}
    rules = [rule for group in written["file: alerts.yaml"]["groups"] for rule in group["rules"]]
    jobs = written["file: prometheus.yaml"]["scrape_configs"]
    known = {metric.name: metric for metric in METRICS}

    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    assert all(job["static_configs"][0]["targets"] for job in jobs)
    for rule in rules:
        assert rule.keys() <= {"alert", "expr", "for", "annotations"}, rule
        assert rule["expr"].count("(") == rule["expr"].count(")"), rule
        named = re.findall(r"\b(llmteam_\w+)(?:\{([^}]*)\})?", rule["expr"])
        assert named, rule
        for name, matchers in named:
            metric = known.get(name) or known[name.removesuffix("_bucket")]
            assert (metric.kind == "histogram") == name.endswith("_bucket"), rule
            assert_values_are_there(metric, matchers)


def assert_values_are_there(metric: Metric, matchers: str) -> None:
    values = {label.name: label.values for label in metric.labels}
    for label, wanted in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
        assert set(wanted.split("|")) <= set(values[label]), (metric.name, matchers)


def yaml_blocks(page: str) -> list[Block]:
    return [block for block in blocks_of(DOCS / page) if block.language == "yaml"]
