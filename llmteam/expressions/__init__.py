"""The expressions of conditions, transforms and rules: Python's operators over JSON values, bounded."""

from llmteam.expressions.exceptions import ExpressionError
from llmteam.expressions.language import Expression, compile_expression

__all__ = ["Expression", "ExpressionError", "compile_expression"]
