"""Secrets from the environment, from files, and from several places in turn."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path

from llmteam.errors import ConfigurationError
from llmteam.runtime.exceptions import ResourceNotFoundError, SecretAccessDeniedError, SecretUnavailableError
from llmteam.runtime.resources import SecretsProvider

#: Bytes of one secret file.
MAX_FILE_BYTES = 64 * 1024

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


class EnvironmentSecrets:
    """Secrets in variables: ``api_key`` is ``LLMTEAM_SECRET_API_KEY``.

    The prefix keeps the rest of the environment out of reach: without it a segment could ask for the database URL.
    Letters become upper case, anything but letters and digits an underscore. An empty variable counts as unset.
    """

    def __init__(self, prefix: str = "LLMTEAM_SECRET_", environ: Mapping[str, str] | None = None) -> None:
        if not prefix:
            raise ConfigurationError("EnvironmentSecrets needs a prefix: without one every variable would be a secret")
        self._prefix = prefix
        self._environ = os.environ if environ is None else environ

    def read_secret(self, secret_id: str) -> str:
        """The value. Raises :class:`ResourceNotFoundError`."""
        variable = self._prefix + re.sub(r"[^A-Za-z0-9]", "_", secret_id).upper()
        value = self._environ.get(variable)
        if not value:
            raise ResourceNotFoundError("Secret", secret_id, fix=f"set {variable[:200]} for the worker")
        return value

    async def get_secret(self, secret_id: str) -> str:
        """As :meth:`read_secret`."""
        return self.read_secret(secret_id)


class FileSecrets:
    """Secrets in a folder with one file each, as Docker and Kubernetes mount them.

    A secret's id is a file name: no path leads out of the folder, also not through a link that somebody placed in it
    (Kubernetes' own links stay inside). One line break at the end is not part of the value.
    """

    def __init__(self, folder: str | os.PathLike[str] = "/run/secrets") -> None:
        self._folder = Path(folder)

    def read_secret(self, secret_id: str) -> str:
        """The value. Raises :class:`ResourceNotFoundError`, :class:`SecretAccessDeniedError`."""
        if _NAME.fullmatch(secret_id) is None:
            raise SecretAccessDeniedError(
                f"Secret '{secret_id[:200]}' is no file name: letters, digits, underscore, dot and hyphen"
            )
        path = self._folder / secret_id
        real = path.resolve()
        if not real.is_relative_to(self._folder.resolve()):
            raise SecretAccessDeniedError(f"Secret '{secret_id}' is a link that leads out of {self._folder}")
        try:
            with real.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ResourceNotFoundError("Secret", secret_id, fix=f"put it into the file {path}") from None
        except PermissionError:
            raise SecretAccessDeniedError(f"Secret '{secret_id}': the worker may not read {path}") from None
        except OSError as exc:
            raise SecretUnavailableError(f"Secret '{secret_id}': {path} cannot be read ({exc.strerror})") from None
        if len(content) > MAX_FILE_BYTES:
            raise SecretUnavailableError(f"Secret '{secret_id}': {path} is larger than {MAX_FILE_BYTES:,} bytes")
        try:
            return content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            pass
        raise SecretUnavailableError(f"Secret '{secret_id}': {path} is not UTF-8 text")

    async def get_secret(self, secret_id: str) -> str:
        """As :meth:`read_secret`, in a thread."""
        return await asyncio.to_thread(self.read_secret, secret_id)


class ChainedSecrets:
    """Asks several providers in turn and takes the first that has the secret. A refusal or a fault ends the search."""

    def __init__(self, *providers: SecretsProvider) -> None:
        if not providers:
            raise ConfigurationError("ChainedSecrets needs at least one provider")
        self._providers = providers

    async def get_secret(self, secret_id: str) -> str:
        """The value. Raises :class:`ResourceNotFoundError` that says what each provider would need."""
        fixes: list[str] = []
        for provider in self._providers:
            try:
                found: object = provider.get_secret(secret_id)
                found = await found if inspect.isawaitable(found) else found
            except KeyError:
                found = None
            except ResourceNotFoundError as exc:
                fixes.append(str(exc).partition("not found: ")[2])
                continue
            if isinstance(found, str):
                return found
            fixes.append(f"add it to what {type(provider).__name__} reads")
        raise ResourceNotFoundError("Secret", secret_id, fix=", or ".join(fixes))
