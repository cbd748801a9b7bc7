"""Code blocks of Markdown documents, and running Python ones as they are printed."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

_FENCE = re.compile(r"^```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_COMMENT = re.compile(r"<!--((?:(?!-->).)*)-->\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its text, and the HTML comment right before it."""

    file: str
    line: int
    heading: str
    language: str
    text: str
    comment: str = ""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def blocks_of(path: Path) -> list[Block]:
    """Every fenced block of a document, in order."""
    document = path.read_text(encoding="utf-8")
    outside = _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), document)
    headings = [(match.start(), match[1].strip()) for match in _HEADING.finditer(outside)]
    found = []
    for match in _FENCE.finditer(document):
        heading = [title for start, title in headings if start < match.start()]
        comment = _COMMENT.search(document[: match.start()])
        line = document.count("\n", 0, match.start()) + 2
        words = comment[1].strip() if comment else ""
        found.append(Block(path.name, line, heading[-1] if heading else "", match["language"], match["text"], words))
    return found


def compiled(text: str, where: str) -> CodeType:
    """Python text in which ``await`` and ``async with`` may stand outside any function."""
    return compile(text, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def execute(pieces: Iterable[tuple[str, str]], names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run (place, text) one after the other in one namespace and one event loop, and return the namespace."""
    namespace: dict[str, Any] = {"__name__": "__block__", **(names or {})}

    async def run() -> None:
        for where, text in pieces:
            result = eval(compiled(text, where), namespace)
            if inspect.isawaitable(result):
                await result

    asyncio.run(run())
    return namespace
