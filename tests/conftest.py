"""What holds for every test: no setting of the caller leaks in, and Hypothesis never fails for slowness."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["tests.services"]

# LLMTEAM_TEST_* is for the test suite itself. A model key of the caller must never be spent by a test.
for _name in list(os.environ):
    if _name.startswith(("LLMTEAM_", "OPENAI_", "ANTHROPIC_")) and not _name.startswith("LLMTEAM_TEST_"):
        del os.environ[_name]

settings.register_profile("home", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "home")
