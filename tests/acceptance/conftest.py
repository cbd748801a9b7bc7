"""What a newcomer has: the built wheel, installed in a fresh virtual environment."""

from __future__ import annotations

import os
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.services import PostgresService, made_once
from tests.test_packaging import install, wheel

__all__ = ["wheel"]


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
def fresh(shared_home: Path, wheel: Path) -> Fresh:
    """``llmteam[embedded]`` from the built wheel; the path is short enough for sockets."""

    def make(folder: Path) -> None:
        folder.chmod(0o755)
        venv.create(folder / "venv", with_pip=True, symlinks=True)
        install(folder / "venv/bin/python", f"{wheel}[embedded]")

    return Fresh(made_once(shared_home / "fresh", make))
