"""Counters that nobody asked for cost nothing, and labels stay few whatever comes."""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from llmteam import metrics
from llmteam.metrics.instruments import Counter, Histogram, Instrument, MetricsNotInstalledError, Switch, Values
from llmteam.metrics.models import MOST_VALUES, OTHER, Label, Metric
from tests.scraping import Scrape, counted, read


@pytest.fixture(autouse=True)
def values() -> Iterator[None]:
    """Values that a test has told are forgotten behind it."""
    yield
    Instrument.values.clear()


def counter(*labels: Label) -> Counter:
    return Counter(Metric("tests_total", "counter", "Tests.", labels))


def scraped(registry: CollectorRegistry) -> Scrape:
    return read([generate_latest(registry).decode()])


def test_what_nobody_asked_for_is_not_counted_and_loads_nothing() -> None:
    code = (
        "import sys; from llmteam import metrics; metrics.STEPS.add('transform', 'completed'); "
        "metrics.STEP_SECONDS.observe(1.0, 'transform'); "
        "sys.exit('prometheus_client' in sys.modules or metrics.is_on())"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=50).returncode == 0


def test_what_is_counted_before_it_is_asked_for_stays_untold() -> None:
    registry, made = CollectorRegistry(), counter()
    switch = Switch([made])
    made.add()

    switch.turn_on(registry)
    made.add(value=2)
    switch.turn_on(registry)

    assert scraped(registry).of("tests_total") == 2


def test_the_values_of_a_label_beyond_the_most_are_other() -> None:
    registry, made = CollectorRegistry(), counter(Label("kind"))
    Switch([made]).turn_on(registry)

    for number in range(MOST_VALUES + 50):
        made.add(f"kind_{number}")
    made.add("kind_0")

    found = scraped(registry).by("tests_total", "kind")
    assert len(found) == MOST_VALUES + 1
    assert (found[(OTHER,)], found[("kind_0",)]) == (50, 2)


def test_a_label_with_a_list_has_no_other_value_and_all_of_them_from_the_start() -> None:
    registry, made = CollectorRegistry(), counter(Label("outcome", ("good", "bad")))
    Switch([made]).turn_on(registry)

    made.add("canary")

    assert scraped(registry).samples.keys() >= {
        ("tests_total", frozenset({("outcome", outcome)})) for outcome in ("good", "bad", OTHER)
    }
    assert "canary" not in scraped(registry).text


@given(st.lists(st.text(max_size=200), max_size=40), st.integers(min_value=1, max_value=10))
def test_whatever_comes_a_label_has_few_short_plain_values(texts: list[str], most: int) -> None:
    values = Values(most)

    told = {values.admit(text) for text in texts}

    assert len(told - {OTHER}) <= most
    assert all(value == OTHER or (value in texts and len(value) <= 100) for value in told)
    assert not any(character.isspace() or character in "{}\"'?&=" for value in told for character in value)
    assert all(values.admit(value) == value for value in told)


def test_counting_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def inc(self, value: float) -> None:
            raise OSError("no space left")

        observe = inc

    one, two = counter(), Histogram(Metric("tests_seconds", "histogram", "Tests.", (), (1.0,)))
    for instrument in (one, two):
        instrument.bind(Broken())

    one.add()
    two.observe(1.0)

    assert "could not be counted" in caplog.text


def test_without_prometheus_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)

    with pytest.raises(MetricsNotInstalledError, match=r"pip install 'llmteam\[metrics\]'"):
        metrics.enable(CollectorRegistry())
    assert not metrics.is_on()


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in metrics.METRICS:
        assert metric.name.startswith("llmteam_")
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert (metric.kind == "histogram") == bool(metric.buckets), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name
        assert metric.help.endswith("."), metric.name
    assert len({metric.name for metric in metrics.METRICS}) == len(metrics.METRICS)


def test_no_label_can_name_a_tenant_or_a_run() -> None:
    labels = {name for metric in metrics.METRICS for name in metric.label_names}

    assert not labels & {"tenant", "tenant_id", "run", "run_id", "step_id", "instance", "url", "host", "user"}


def test_a_model_is_told_by_name_only_after_it_has_answered() -> None:
    with counted() as told:
        for name in ("canary", "gpt"):
            with pytest.raises(ValueError, match="no"), metrics.asking(name):
                raise ValueError("no")
        with metrics.asking("gpt") as call:
            call.answered("gpt-of-today", None)
        with pytest.raises(ValueError, match="no"), metrics.asking("gpt"):
            raise ValueError("no")

        found = told()

    assert found.by("llmteam_model_calls_total", "model", "outcome") == {
        (OTHER, "failed"): 2,
        ("gpt", "answered"): 1,
        ("gpt", "failed"): 1,
    }
    assert "canary" not in found.text
