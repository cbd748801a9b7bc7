"""What moves between a context and those above and below it, and how the values of several become one. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmteam.context.exceptions import InvalidContextError

#: From best to worst. A status that is not listed counts as the first.
STATUS_ORDER = ("idle", "running", "completed", "error", "failed")
RULES = ("sum", "avg", "max", "min", "worst", "last")
_OF_NUMBERS = frozenset({"sum", "avg", "max", "min"})


@dataclass
class ContextPropagationConfig:
    """Which fields move up and down, and by which rule those of several children become one.

    Rules: ``sum``, ``avg``, ``max``, ``min`` (numbers), ``worst`` (statuses, see :data:`STATUS_ORDER`), ``last`` (of
    the child that came last). Names that begin with an underscore never move. Raises :class:`InvalidContextError` for
    another rule or such a name.
    """

    propagate_up: list[str] = field(default_factory=lambda: ["status", "confidence", "error_count"])
    propagate_down: list[str] = field(default_factory=lambda: ["global_config", "shared_state"])
    aggregation_rules: dict[str, str] = field(
        default_factory=lambda: {"confidence": "avg", "error_count": "sum", "status": "worst"}
    )

    def __post_init__(self) -> None:
        up, down, rules = self.propagate_up, self.propagate_down, self.aggregation_rules
        self.propagate_up, self.propagate_down, self.aggregation_rules = [], [], {}
        for name in down:
            self.add_propagate_down(name)
        for name in up:
            self.add_propagate_up(name, None)
        for name, rule in rules.items():
            self.set_aggregation_rule(name, rule)

    def add_propagate_up(self, field: str, aggregation: str | None = "last") -> None:
        """Let a field move up; with a rule, or by the one that is set."""
        if _movable(field) not in self.propagate_up:
            self.propagate_up.append(field)
        if aggregation is not None:
            self.set_aggregation_rule(field, aggregation)

    def add_propagate_down(self, field: str) -> None:
        if _movable(field) not in self.propagate_down:
            self.propagate_down.append(field)

    def remove_propagate_up(self, field: str) -> None:
        """Let a field no longer move up, and forget its rule."""
        self.propagate_up = [name for name in self.propagate_up if name != field]
        self.aggregation_rules.pop(field, None)

    def remove_propagate_down(self, field: str) -> None:
        self.propagate_down = [name for name in self.propagate_down if name != field]

    def set_aggregation_rule(self, field: str, rule: str) -> None:
        if rule not in RULES:
            raise InvalidContextError(f"field '{field[:80]}': there is no rule {rule[:40]!r}: {', '.join(RULES)}")
        self.aggregation_rules[field] = rule

    def get_aggregation_rule(self, field: str) -> str:
        """The field's rule, ``last`` when none is set."""
        return self.aggregation_rules.get(field, "last")


def _movable(field: str) -> str:
    if field.startswith("_"):
        raise InvalidContextError(f"field '{field[:80]}': names that begin with an underscore never move")
    return field


def aggregate(config: ContextPropagationConfig, contributions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of several children as one, by field; from all of them each time, so that nothing counts twice.

    A child that says nothing of a field does not count for it. Raises :class:`InvalidContextError` when a value does
    not fit the field's rule.
    """
    fields = dict.fromkeys(name for given in contributions for name in given)
    return {
        name: _combined(
            name, config.get_aggregation_rule(name), [given[name] for given in contributions if name in given]
        )
        for name in fields
    }


def check_value(field: str, rule: str, value: Any) -> None:
    """Raise :class:`InvalidContextError` when ``value`` does not fit the rule."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if rule in _OF_NUMBERS and not number:
        raise InvalidContextError(f"field '{field[:80]}': the rule {rule} takes finite numbers")
    if rule == "worst" and not isinstance(value, str):
        raise InvalidContextError(f"field '{field[:80]}': the rule worst takes statuses as text")


def _combined(field: str, rule: str, values: Sequence[Any]) -> Any:
    for value in values:
        check_value(field, rule, value)
    match rule:
        case "sum":
            return sum(values)
        case "avg":
            return sum(values) / len(values)
        case "max":
            return max(values)
        case "min":
            return min(values)
        case "worst":
            return max(values, key=lambda status: STATUS_ORDER.index(status) if status in STATUS_ORDER else 0)
        case _:
            return values[-1]
