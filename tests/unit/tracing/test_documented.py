"""What the documentation says of spans is what they say."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
#: Where names of attributes stand.
SOURCES = ("tracing/attributes.py", "tracing/otel.py", "canvas/observed.py", "canvas/handlers/ai.py", "net/client.py")
_NAME = r"(?:llmteam|gen_ai|http|server|error|url)\.[a-z_.]+[a-z]"
#: Said of every span of its kind, in words.
IN_WORDS = {
    "llmteam.tenant_id",
    "llmteam.run_id",
    "llmteam.segment",
    "url.scheme",
    "gen_ai.operation.name",
    "gen_ai.request.max_tokens",
    "gen_ai.request.temperature",
}


def test_the_attributes_of_spans_are_listed() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("\n## Traces\n")[2].partition("\n## ")[0]
    code = "".join((ROOT / "llmteam" / name).read_text(encoding="utf-8") for name in SOURCES)

    listed = {name for name in re.findall(rf"`({_NAME})`", section) if not name.startswith("llmteam.tracing")}

    assert listed | IN_WORDS == set(re.findall(rf'"({_NAME})"', code))
