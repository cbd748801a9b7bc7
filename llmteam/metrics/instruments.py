"""Counters and histograms that cost one comparison until somebody asks for them.

They are prometheus_client's own once they are on; nothing of it is imported before.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from llmteam.errors import ConfigurationError
from llmteam.metrics.models import MOST_VALUES, OTHER, Label, Metric

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

_VALUE = re.compile(r"[\w.:/@+-]{1,100}")


class MetricsNotInstalledError(ConfigurationError):
    """prometheus_client, which metrics need, is not installed."""

    def __init__(self) -> None:
        super().__init__("metrics need prometheus_client, which is not installed: pip install 'llmteam[metrics]'")


class Values:
    """The values of one label that are told apart in this process. For many threads."""

    def __init__(self, most: int = MOST_VALUES) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: set[str] = set()

    def admit(self, value: str) -> str:
        """The value, or :data:`OTHER` when it is one too many or no name of anything."""
        if value in self._known or value == OTHER:
            return value
        if _VALUE.fullmatch(value) is None:
            return OTHER
        with self._lock:
            if len(self._known) < self._most:
                self._known.add(value)
            return value if value in self._known else OTHER

    def known(self, value: str) -> str:
        """The value if it was admitted, else :data:`OTHER`."""
        return value if value in self._known else OTHER


class Instrument:
    """A metric of this process. Counting never raises: what cannot be counted is no fault of what is counted."""

    __slots__ = ("_children", "_target", "metric")

    #: By the name of the label, so that one value means the same in all metrics.
    values: ClassVar[dict[str, Values]] = {}

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._target: Any = None
        #: What is counted with these values, of values that are told as they are.
        self._children: dict[tuple[str, ...], Any] = {}

    def bounded(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The values as they may be told."""
        return tuple(map(_bounded, self.metric.labels, labels))

    def of(self, labels: tuple[str, ...]) -> Any:
        """What is counted with these values."""
        if not labels:
            return self._target
        child = self._children.get(labels)
        if child is None:
            bounded = self.bounded(labels)
            child = self._target.labels(*bounded)
            if bounded == labels:
                self._children[labels] = child
        return child

    def bind(self, target: Any) -> None:
        """Count there from now on. A set of values that is known beforehand begins at 0, so that rates see the 1."""
        if target is not None and len(self.metric.labels) == 1:
            for value in self.metric.labels[0].values:
                target.labels(value)
        self._children = {}
        self._target = target


class Counter(Instrument):
    """Something that happens."""

    __slots__ = ()

    def add(self, *labels: str, value: float = 1) -> None:
        """Count it, with the values of the metric's labels in their order."""
        if self._target is not None:
            try:
                self.of(labels).inc(value)
            except Exception as exc:  # noqa: BLE001  # whatever it is
                _give_up(exc)


class Histogram(Instrument):
    """Something that takes time."""

    __slots__ = ()

    def observe(self, seconds: float, *labels: str) -> None:
        """It took this long."""
        if self._target is not None:
            try:
                self.of(labels).observe(max(0.0, seconds))
            except Exception as exc:  # noqa: BLE001  # whatever it is
                _give_up(exc)


def _bounded(label: Label, value: str) -> str:
    if label.values:
        return value if value in label.values else OTHER
    return values_of(label).admit(value)


def values_of(label: Label) -> Values:
    """The values of a label without a list of its own."""
    return Instrument.values.setdefault(label.name, Values())


class Switch:
    """Turns instruments on and off together."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._instruments = tuple(instruments)
        self._lock = threading.Lock()
        self._registry: CollectorRegistry | None = None
        self._made: list[Any] = []
        self.is_on = False

    def turn_on(self, registry: CollectorRegistry | None = None) -> None:
        """Count in ``registry``, by default prometheus_client's own; where it is on already, nothing changes.

        Raises :class:`MetricsNotInstalledError`.
        """
        try:
            import prometheus_client
        except ImportError:
            raise MetricsNotInstalledError from None
        with self._lock:
            if self.is_on:
                return
            self._registry = registry or prometheus_client.REGISTRY
            for instrument in self._instruments:
                metric = instrument.metric
                more: dict[str, Any] = {"buckets": metric.buckets} if metric.buckets else {}
                make = prometheus_client.Histogram if metric.kind == "histogram" else prometheus_client.Counter
                made = make(metric.name, metric.help, metric.label_names, registry=self._registry, **more)
                self._made.append(made)
                instrument.bind(made)
            self.is_on = True

    def turn_off(self) -> None:
        """Stop counting; what was counted is forgotten by the registry. Again: nothing."""
        with self._lock:
            self.is_on = False
            for instrument in self._instruments:
                instrument.bind(None)
            for made in self._made:
                if self._registry is not None:
                    self._registry.unregister(made)
            self._made.clear()
            self._registry = None


_failed = threading.Event()


def _give_up(exc: Exception) -> None:
    """Say it once: the next count is likely to fail in the same way."""
    if not _failed.is_set():
        _failed.set()
        logger.warning(
            "something could not be counted (%s: %s); metrics of this process lack it", type(exc).__name__, exc
        )
