"""Rules as data: an expression over a run's context, and the decision where it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from llmteam.expressions import Expression, ExpressionError, compile_expression
from llmteam.roles.exceptions import InvalidRuleError
from llmteam.roles.models import DECISION_TYPES, OrchestrationContext, OrchestrationDecision

#: A target that begins with it is an expression that gives an agent's name, or a list of them.
EXPRESSION_SIGN = "$"

_KEYS = ("when", "decision", "targets", "reason", "confidence")


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """One rule, as JSON ``{"when": "error_rate > 0.5", "decision": "retry", "targets": ["$current_step"]}``.

    ``when`` and targets that begin with ``$`` are expressions over :meth:`OrchestrationContext.as_document`. Make it
    with :meth:`from_dict`.
    """

    when: Expression
    decision: str
    targets: tuple[str, ...] = ()
    reason: str = ""
    confidence: float = 1.0
    _named: tuple[Expression | str, ...] = field(default=(), repr=False, compare=False)

    def __call__(self, context: OrchestrationContext) -> OrchestrationDecision | None:
        """The decision where the rule holds, else nothing. Raises :class:`ExpressionError`."""
        document = context.as_document()
        if not self.when.evaluate(document):
            return None
        targets: list[str] = []
        for target in self._named:
            targets.extend([target] if isinstance(target, str) else _names(target, document))
        reason = self.reason or f"rule: {self.when.text}"
        return OrchestrationDecision(self.decision, targets, reason, self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON; what :meth:`from_dict` reads."""
        data: dict[str, Any] = {"when": self.when.text, "decision": self.decision}
        if self.targets:
            data["targets"] = list(self.targets)
        if self.reason:
            data["reason"] = self.reason
        if self.confidence != 1.0:
            data["confidence"] = self.confidence
        return data

    @classmethod
    def from_dict(cls, data: Any, path: str = "rule") -> Self:
        """Read and check a rule that stands at ``path``. Raises :class:`InvalidRuleError` that says where and what."""
        if not isinstance(data, Mapping):
            raise InvalidRuleError(path, f"a rule is a function or an object, not a {type(data).__name__}")
        if unknown := [str(key) for key in data if key not in _KEYS]:
            raise InvalidRuleError(f"{path}.{unknown[0][:60]}", f"unknown key: a rule has {', '.join(_KEYS)}")
        decision = data.get("decision")
        if decision not in DECISION_TYPES:
            raise InvalidRuleError(f"{path}.decision", f"has to be one of {', '.join(DECISION_TYPES)}")
        targets = data.get("targets", ())
        if not isinstance(targets, list | tuple) or not all(isinstance(one, str) and one for one in targets):
            raise InvalidRuleError(f"{path}.targets", "has to be a list of agents' names")
        reason, confidence = data.get("reason", ""), data.get("confidence", 1.0)
        if not isinstance(reason, str):
            raise InvalidRuleError(f"{path}.reason", "has to be text")
        if not is_share(confidence):
            raise InvalidRuleError(f"{path}.confidence", "has to be a number from 0 to 1")
        named = tuple(
            _expression(target.removeprefix(EXPRESSION_SIGN), f"{path}.targets[{place}]")
            if target.startswith(EXPRESSION_SIGN)
            else target
            for place, target in enumerate(targets)
        )
        when = _expression(data.get("when"), f"{path}.when")
        return cls(when, decision, tuple(targets), reason, float(confidence), named)


def is_share(value: object) -> bool:
    """Whether ``value`` is a number from 0 to 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


def _expression(text: Any, path: str) -> Expression:
    try:
        return compile_expression(text)
    except ExpressionError as exc:
        raise InvalidRuleError(path, exc.reason) from None


def _names(target: Expression, document: dict[str, Any]) -> list[str]:
    value = target.evaluate(document)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ExpressionError(target.text, "a target has to be an agent's name or a list of names")
    return list(names)
