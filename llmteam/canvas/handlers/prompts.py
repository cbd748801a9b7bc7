"""Pure: the text that a model is asked, made from a template or taken from the document."""

from __future__ import annotations

import re
from typing import Any

from llmteam import codec
from llmteam.canvas.exceptions import CanvasError

#: Keys of a document that hold a question, in the order of looking.
PROMPT_KEYS = ("prompt", "query", "input", "text")
#: Names for the document itself, where it has no such key.
DOCUMENT_NAMES = ("input", "data", "value")

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NAME = re.compile(r"[^\W\d][\w-]*(?:\.\w[\w-]*)*")


class PromptError(CanvasError):
    """A prompt template cannot be filled: its braces are wrong, or the document lacks a name."""


def fill(template: str, document: Any) -> str:
    """``template`` with every ``{name}`` replaced by that key of the document; ``{{`` and ``}}`` are braces.

    ``{customer.name}`` and ``{lines.0}`` look further into it: by key and position only, never by Python attribute.
    Text goes in as it is and is not read again, anything else goes in as JSON. Raises :class:`PromptError`.
    """

    def piece(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        name = match[1]
        if name is None or _NAME.fullmatch(name) is None:
            raise PromptError(
                f"The prompt has a brace at character {match.start() + 1} that is no {{name}}: write {{{{ and }}}} for "
                "braces that stand for themselves"
            )
        return as_text(_value(name, document))

    return _PIECE.sub(piece, template)


def prompt_of(document: Any) -> str:
    """What a document asks by itself: its first key of :data:`PROMPT_KEYS`, else all of it as JSON."""
    if isinstance(document, dict):
        for key in PROMPT_KEYS:
            if document.get(key) not in (None, ""):
                return as_text(document[key])
    return as_text(document)


def as_text(value: Any) -> str:
    """Text as it is, anything else as JSON. Raises :class:`NotJSONError`."""
    return value if isinstance(value, str) else codec.dumps(value, path="document")


def _value(name: str, document: Any) -> Any:
    if isinstance(document, dict) and name in document:
        return document[name]
    first, *rest = name.split(".")
    if isinstance(document, dict) and first in document:
        found = document[first]
    elif first in DOCUMENT_NAMES:
        found = document
    else:
        raise _missing(name)
    for key in rest:
        if isinstance(found, dict) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(found):
            found = found[int(key[:9])]
        else:
            raise _missing(name)
    return found


def _missing(name: str) -> PromptError:
    return PromptError(f"The prompt names {{{name[:60]}}}, and the step's input has no such key")
