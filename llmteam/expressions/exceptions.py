"""What can go wrong with an expression."""

from __future__ import annotations

from llmteam.errors import LLMTeamError

#: Characters of an expression that its error shows.
_SHOWN = 120


class ExpressionError(LLMTeamError):
    """An expression does not parse or cannot be evaluated.

    ``reason`` shows no data. ``missing`` says that the only fault is a name, key or index that is not there.
    """

    retryable = False

    def __init__(self, condition: str, reason: str, missing: bool = False) -> None:
        shown = condition if len(condition) <= _SHOWN else f"{condition[:_SHOWN]}… ({len(condition):,} characters)"
        super().__init__(f"Expression {shown!r}: {reason}")
        self.condition = condition
        self.reason = reason
        self.missing = missing
