from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import llmteam

ROOT = Path(__file__).parents[2]
HEAVY = {"alembic", "celery", "kombu", "psycopg2", "pydantic", "redis", "requests", "sqlalchemy"}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_importing_the_package_loads_no_server_library() -> None:
    loaded = python("import sys, llmteam; print(*{name.partition('.')[0] for name in sys.modules})")

    assert loaded.returncode == 0, loaded.stderr
    assert not HEAVY & set(loaded.stdout.split())


@pytest.mark.parametrize(("name", "module"), sorted(llmteam._MODULE_OF.items()))
def test_a_public_name_is_the_one_of_its_package(name: str, module: str) -> None:
    assert getattr(llmteam, name) is getattr(import_module(f"llmteam.{module}"), name)


def test_a_name_stands_in_one_package_only() -> None:
    names = [name for names in llmteam._NAMES.values() for name in names.split()]

    assert sorted(names) == sorted(set(names))


def test_type_checkers_see_the_packages_that_the_names_come_from() -> None:
    source = Path(llmteam.__file__).read_text(encoding="utf-8")

    assert [module for module in llmteam._NAMES if f"    from llmteam.{module} import *\n" not in source] == []


def test_all_names_are_listed() -> None:
    assert set(llmteam.__all__) <= set(dir(llmteam))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'llmteam' has no attribute 'SegmentRuner'"):
        llmteam.SegmentRuner  # noqa: B018


def test_the_version_is_the_installed_one() -> None:
    assert llmteam.__version__ == version("llmteam") == "2.0.0"


def test_tasks_refuse_their_folders_own_name() -> None:
    answer = python("import tasks")

    assert answer.returncode == 1
    assert "import llmteam.tasks" in answer.stderr
