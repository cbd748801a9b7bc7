"""What a newcomer has: the built wheel, installed in a fresh virtual environment."""

from __future__ import annotations

import os
import sys
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.services import PostgresService
from tests.test_packaging import copy_project, install, project_files, run


@pytest.fixture
def database_url(postgres: PostgresService) -> Iterator[str]:
    """The URL of a database that no other test gets: processes of this one may still write when it is over."""
    yield postgres.create()
    postgres.drop_all()


@dataclass(frozen=True)
class Fresh:
    """A folder that the user of the embedded servers can enter, with ``venv`` in it."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of a shell in which that virtual environment is active."""
        outer = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        return {**outer, "PATH": f"{self.folder}/venv/bin{os.pathsep}{os.environ['PATH']}"}

    @property
    def llmteam(self) -> str:
        return str(self.folder / "venv/bin/llmteam")

    def place(self, name: str) -> Path:
        """An empty folder to work in."""
        made = self.folder / name
        made.mkdir()
        return made


@pytest.fixture(scope="session")
def fresh() -> Iterator[Fresh]:
    """``llmteam[embedded]`` from the built wheel; the path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="llmteam-fresh-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        project = copy_project(project_files(), folder / "project")
        run(sys.executable, "-m", "build", "--no-isolation", cwd=project)
        (wheel,) = (project / "dist").glob("*.whl")
        venv.create(folder / "venv", with_pip=True, symlinks=True)
        install(folder / "venv/bin/python", f"{wheel}[embedded]")
        yield Fresh(folder)
