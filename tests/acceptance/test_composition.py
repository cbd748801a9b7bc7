"""The topology of ``docker/compose.yaml`` as plain processes: its commands, environment and secrets, real servers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from llmteam.embedded import EmbeddedServers, start
from llmteam.embedded.programs import find_postgres
from tests.acceptance.command_line import DONE, CommandLine, Started
from tests.composing import DOCKER, Here, composition, free_port, make_secrets, ours
from tests.embedding import short_folder
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

_PASSWORDS = ("DATABASE_PASSWORD_FILE", "MIGRATION_PASSWORD_FILE")


@dataclass
class Topology:
    """The services of the composition, started one by one."""

    here: Here
    line: CommandLine
    stack: contextlib.ExitStack

    def start(self, name: str) -> Started:
        return self.stack.enter_context(self.line.started(*self.here.command(ours()[name]), **self.environment(name)))

    def environment(self, name: str) -> dict[str, str]:
        where = f"127.0.0.1:{self.here.ports[f'{name} health']}"
        return self.here.environment(ours()[name]) | {"LLMTEAM_HEALTH": where, "LLMTEAM_IMPORTS": "steps_of_tests"}

    def status(self, port: str, path: str) -> int | None:
        """What the health check of a container would see."""
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{self.here.ports[port]}{path}", timeout=5).status_code
        return None

    def wait_until_healthy(self, service: Started, port: str, path: str) -> None:
        def healthy() -> bool:
            assert service.process.poll() is None, f"it ended: {service.output()}"
            return self.status(port, path) == 200

        wait_until(healthy, f"200 of {port}{path}", timeout=60)


@pytest.fixture
def topology() -> Iterator[Topology]:
    """Servers set up as the containers set theirs up, and nothing that runs on them."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        servers = stack.enter_context(start(folder / "servers"))
        secrets = make_secrets(folder)
        initialize_postgres(servers, secrets)
        point_at(servers, secrets)
        ports = ["5555", "8585", *(f"{name} health" for name in ours())]
        here = Here(secrets, {port: free_port() for port in ports})
        yield Topology(here, CommandLine(folder), stack)


def initialize_postgres(servers: EmbeddedServers, secrets: Path) -> None:
    """What the image of Postgres does with a fresh data folder: make the database, then run what it was given."""
    psql = find_postgres().program("psql")
    host = servers.superuser_url.partition("host=")[2].partition("&")[0]
    asked = composition()["services"]["postgres"]["environment"]
    env = os.environ | {
        "PATH": f"{Path(psql).parent}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": host,
        "POSTGRES_USER": "postgres",
        "POSTGRES_DB": asked["POSTGRES_DB"],
        **{name: str(secrets / Path(asked[name]).name) for name in _PASSWORDS},
    }

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr

    run(psql, "--username=postgres", "--command", f"CREATE DATABASE {asked['POSTGRES_DB']}")
    run("sh", DOCKER / "postgres" / "10-login.sh")
    run(
        psql,
        "--set=ON_ERROR_STOP=1",
        "--username=postgres",
        asked["POSTGRES_DB"],
        "-f",
        DOCKER / "postgres/20-roles.sql",
    )


def point_at(servers: EmbeddedServers, secrets: Path) -> None:
    """Put these servers where the addresses of the secrets name containers."""
    host = servers.superuser_url.partition("?")[2]
    for name in ("database_url", "migration_url"):
        url = (secrets / name).read_text().strip()
        (secrets / name).write_text(url.replace("@postgres:5432/llmteam", f"@/llmteam?{host}"))
    (secrets / "broker_url").write_text(servers.broker_url)


def test_the_composition_runs_a_segment_to_its_end_and_drains(topology: Topology) -> None:
    line = topology.line
    migrated = line(*topology.here.command(ours()["migrate"]), **topology.environment("migrate"))
    assert migrated.returncode == DONE, migrated.stderr

    services = {name: topology.start(name) for name in ours() if name != "migrate"}
    for name in ("worker-threads", "worker-prefork", "beat"):
        topology.wait_until_healthy(services[name], f"{name} health", "/readyz")
    topology.wait_until_healthy(services["inbox"], "8585", "/health")
    topology.wait_until_healthy(services["flower"], "5555", "/healthcheck")

    segment = line.segment("both", ("transform", {"expression": "'hello ' + name"}), ("pid", {}))
    done = line("run", segment, "--input", '{"name": "you"}', "--json", **topology.environment("worker-threads"))
    assert done.returncode == DONE, done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
    services["worker-prefork"].look()
    assert json.loads(done.stdout)["outputs"]["output"] in {one.pid for one in services["worker-prefork"].family}

    assert {name: one.end(signal.SIGTERM, timeout=40) for name, one in services.items()} == dict.fromkeys(
        services, DONE
    )
    for one in services.values():
        one.wait_until_gone()
