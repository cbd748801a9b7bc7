"""The inbox on the web: pages without scripts, and the same as a JSON API. Needs the extra ``web``."""

from __future__ import annotations

from llmteam.web.app import create_app
from llmteam.web.parts import Parts

__all__ = ["Parts", "create_app"]
