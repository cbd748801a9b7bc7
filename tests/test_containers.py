"""The image and the composition: what linter and specification say, and what we ask of ourselves beyond them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmteam.db import roles_sql
from llmteam.settings import Settings, file_variable
from tests.composing import DOCKER, composition, make_secrets, ours

_SERVICES = composition()["services"]


def tool(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment."""
    program, *arguments = command
    path = Path(sys.executable).parent / program
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=50, check=False)


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    done = tool("hadolint", DOCKER / "Dockerfile")

    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_says_something_about_a_worse_one(tmp_path: Path) -> None:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("-slim-bookworm", "")
    worse = tmp_path / "Dockerfile"
    worse.write_text(text.replace("python:${PYTHON}", "python:latest").replace("USER 10001", "USER root"))

    assert {"DL3007", "DL3002"} <= set(tool("hadolint", worse).stdout.split())


def check_composition(path: Path) -> subprocess.CompletedProcess[str]:
    return tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_the_composition_is_valid_by_the_specification() -> None:
    done = check_composition(DOCKER / "compose.yaml")

    assert done.returncode == 0, done.stdout


def test_a_composition_with_an_unknown_word_is_not(tmp_path: Path) -> None:
    worse = tmp_path / "compose.yaml"
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    worse.write_text(text.replace("restart: unless-stopped", "restarts: unless-stopped"))

    assert "restarts" in check_composition(worse).stdout


@pytest.mark.parametrize("name", _SERVICES)
def test_every_service_has_limits_a_pinned_image_and_a_health_check(name: str) -> None:
    service = _SERVICES[name]

    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["image"] == "llmteam" or service["image"].rpartition(":")[2] not in {"", "latest"}
    assert has_a_health_check(name, service)


def has_a_health_check(name: str, service: dict[str, Any]) -> bool:
    if name == "migrate":
        # It ends.
        return bool(service["healthcheck"] == {"disable": True})
    if name in {"worker-threads", "worker-prefork", "beat"}:
        # That of the image.
        return "healthcheck" not in service and "/readyz" in (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    return bool(service["healthcheck"]["test"])


@pytest.mark.parametrize("name", ours())
def test_our_services_may_do_no_more_than_they_need(name: str) -> None:
    service = ours()[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_secrets_come_by_file_and_ports_open_to_this_machine_only() -> None:
    secret = {"database_url", "broker_url", "encryption_keys", "web_keys"}
    for service in ours().values():
        names = set(service["environment"])
        assert {file_variable(name) for name in secret} <= names
        assert not {file_variable(name).removesuffix("_FILE") for name in secret} & names
    assert all(port.startswith("127.0.0.1:") for one in _SERVICES.values() for port in one.get("ports", ()))


def test_only_the_migration_knows_the_login_that_may_change_tables() -> None:
    knowing = {name for name, service in _SERVICES.items() if "migration_url" in service.get("secrets", ())}

    assert knowing == {"migrate"}
    assert file_variable("migration_url") in _SERVICES["migrate"]["environment"]


def test_every_variable_is_a_setting() -> None:
    known = {name for variable, _, _ in Settings().sources() for name in (variable, f"{variable}_FILE")}

    given = {name for service in ours().values() for name in service["environment"] if name.startswith("LLMTEAM_")}

    assert given <= known


def test_every_secret_is_one_that_make_secrets_writes_and_what_is_there_stays(tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path)
    before = {path.name: path.read_text() for path in secrets.iterdir()}

    again = make_secrets(tmp_path)

    named = composition()["secrets"]
    assert {f"./secrets/{name}" for name in before} >= {one["file"] for one in named.values()}
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.read_text() for path in again.iterdir()} == before
    hosts = {"database_url": "@postgres:5432/", "broker_url": "@valkey:6379/"}
    assert all(host in before[name] for name, host in hosts.items())


def test_the_roles_of_the_container_are_those_that_this_version_needs() -> None:
    """``llmteam db upgrade --print-roles --login llmteam_login --migration-login llmteam_migration`` writes them."""
    written = (DOCKER / "postgres" / "20-roles.sql").read_text(encoding="utf-8")

    assert written == roles_sql("llmteam_login", "llmteam_migration")
