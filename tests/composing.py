"""What ``docker/compose.yaml`` says, and its services as plain processes of this machine."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[1] / "docker"
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def composition() -> dict[str, Any]:
    """The file as Compose reads it when no variable is set: anchors merged, defaults in place."""
    text = _VARIABLE.sub(lambda match: match[2], (DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def ours() -> dict[str, dict[str, Any]]:
    """The services that run our image."""
    return {name: service for name, service in composition()["services"].items() if service["image"] == "llmteam"}


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def make_secrets(folder: Path) -> Path:
    """What ``make-secrets`` writes, in a folder of the test's own."""
    shutil.copy(DOCKER / "make-secrets", folder / "make-secrets")
    subprocess.run([folder / "make-secrets"], check=True, capture_output=True, timeout=30)
    return folder / "secrets"


@dataclass(frozen=True)
class Here:
    """A machine in place of the network of containers: where its secrets, its ports are."""

    secrets: Path
    ports: Mapping[str, int]

    def environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """What the container would have, with the files of its secrets as they stand here."""
        given = {name: str(value) for name, value in service["environment"].items()}
        for name, value in given.items():
            if value.startswith("/run/secrets/"):
                secret = value.removeprefix("/run/secrets/")
                assert secret in service["secrets"], f"{name} names a secret that the service is not given"
                given[name] = str(self.secrets / secret)
        return given

    def command(self, service: Mapping[str, Any]) -> list[str]:
        """Its command, on loopback and on ports that are free here."""
        mapped = {"0.0.0.0": "127.0.0.1", **{port: str(here) for port, here in self.ports.items()}}
        return [mapped.get(word, word) for word in service["command"]]
