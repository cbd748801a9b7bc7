"""The table of scenarios is whole, and every test that it names is there."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.scenario import ROOT

PAGE = ROOT / "docs" / "reliability.md"
#: The failure catalogue: how many scenarios there are of each kind.
CATALOGUE = {"P": 43, "W": 29, "H": 14, "S": 28}

_ROW = re.compile(r"^\| ([PWHS]\d+)(?:–[PWHS](\d+))? \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
ROWS = [match.groups() for match in _ROW.finditer(PAGE.read_text(encoding="utf-8"))]


def ids_of(first: str, last: str | None) -> list[str]:
    kind, number = first[0], int(first[1:])
    return [f"{kind}{one}" for one in range(number, int(last or number) + 1)]


def known_tests() -> set[str]:
    files = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    return {name for text in files for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)}


def test_every_scenario_of_the_catalogue_stands_in_the_table_once() -> None:
    listed = Counter(one for first, last, *_ in ROWS for one in ids_of(first, last))

    assert listed == Counter(f"{kind}{one}" for kind, count in CATALOGUE.items() for one in range(1, count + 1))


@pytest.mark.parametrize(("first", "last", "fault", "outcome", "shown"), ROWS, ids=[row[0] for row in ROWS])
def test_a_scenario_names_tests_that_are_there_or_says_why_there_is_none(
    first: str, last: str | None, fault: str, outcome: str, shown: str
) -> None:
    known = known_tests()
    names = re.findall(r"`([^`]+)`", shown)

    if shown == "none":
        assert len(outcome.split()) >= 4, "say why there is no test"
        return
    assert names
    assert set(names) <= known


def test_a_test_that_is_named_for_a_scenario_stands_in_its_row() -> None:
    shown = {one: row[4] for row in ROWS for one in ids_of(row[0], row[1])}

    for name in known_tests():
        named = re.match(r"test_((?:[pwhs]\d+_)+)", name)
        for one in [] if named is None else named[1].upper().strip("_").split("_"):
            assert f"`{name}`" in shown[one], f"{name} in the row of {one}"
