"""What holds for every test: no caller's setting leaks in, Hypothesis fails for no slowness, long files begin first."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.services"]

# LLMTEAM_TEST_* is for the test suite itself. A model key of the caller must never be spent by a test.
for _name in list(os.environ):
    if _name.startswith(("LLMTEAM_", "OPENAI_", "ANTHROPIC_")) and not _name.startswith("LLMTEAM_TEST_"):
        del os.environ[_name]

# The suite starts hundreds of interpreters; what one has compiled, the others shall find.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("home", _PATIENT)
settings.register_profile("ci", _PATIENT, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "home")

#: Files that take minutes: begun last, one of them would keep a single worker busy when all others are done.
_LONG = (
    *("test_docs.py", "test_packaging.py", "test_cli_surgery.py", "test_bench.py", "test_cli_services.py"),
    *("test_canaries.py", "test_limited_fleet.py", "test_chaos.py", "test_simulation.py", "test_stores.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(_LONG)))
