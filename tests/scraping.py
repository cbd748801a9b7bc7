"""Reading ``/metrics`` as Prometheus would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llmteam import metrics
from llmteam.metrics.instruments import Instrument

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """The samples of some pages, added up; ``text`` is all that stood there."""

    text: str = ""
    samples: Mapping[tuple[str, Labels], float] = field(default_factory=dict)

    def of(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        wanted = frozenset(labels.items())
        return sum(value for (known, has), value in self.samples.items() if known == name and wanted <= has)

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Values that are not 0, by those of the labels; one label alone without a tuple around it."""
        found: dict[tuple[str, ...], float] = {}
        for (known, has), value in self.samples.items():
            if known == name and value:
                key = tuple(dict(has)[label] for label in labels)
                found[key] = found.get(key, 0.0) + value
        return found

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


def read(texts: Iterable[str]) -> Scrape:
    """The samples of these pages. Raises ``ValueError`` for what is not in Prometheus' format."""
    samples: dict[tuple[str, Labels], float] = {}
    whole = "".join(texts)
    for family in text_string_to_metric_families(whole):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            samples[key] = samples.get(key, 0.0) + sample.value
    return Scrape(whole, samples)


@contextmanager
def counted() -> Iterator[Callable[[], Scrape]]:
    """What this process counts in the block."""
    registry = CollectorRegistry()
    metrics.enable(registry)
    try:
        yield lambda: read([generate_latest(registry).decode()])
    finally:
        metrics.disable()
        Instrument.values.clear()


def scrape(*ports: int) -> Scrape:
    """What the processes at these ports of loopback tell, added up."""
    answers = [requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10) for port in ports]
    assert [answer.status_code for answer in answers] == [200] * len(ports), [answer.text for answer in answers]
    assert all(answer.headers["Content-Type"].startswith("text/plain; version=0.0.4") for answer in answers)
    return read(answer.text for answer in answers)
