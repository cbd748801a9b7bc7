"""Secrets in HashiCorp Vault (or OpenBao), key-value engine version 2."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.net import OutboundGuard, default_guard
from llmteam.runtime.exceptions import ResourceNotFoundError, SecretAccessDeniedError, SecretUnavailableError

if TYPE_CHECKING:
    from llmteam.net import HttpClient, HttpResponse

#: How long one read may take, in seconds.
READ_SECONDS = 4.0

_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")


class VaultSecrets:
    """Reads the secret ``folder/secret_id`` of the engine at ``mount``, and of it the field ``value``.

    Another field is named behind ``#``: ``billing/api#token``. The exact host and port of ``url`` are trusted by the
    outbound guard, for this provider only; redirects are not followed, for the token would go with them. ``token`` may
    be a function that gives the present one, such as a reader of the file that a Vault agent renews.

    Raises:
        ConfigurationError: no token, or a URL that is none.
        LLMTeamError: hvac is not installed.
    """

    def __init__(
        self,
        url: str,
        token: str | Callable[[], str],
        *,
        mount: str = "secret",
        folder: str = "",
        namespace: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        timeout: float = READ_SECONDS,
        guard: OutboundGuard | None = None,
    ) -> None:
        if not token:
            raise ConfigurationError("VaultSecrets needs a token")
        self._token = token if callable(token) else lambda: token
        self._mount = mount
        self._folder = folder.strip("/")
        self._client = _client(url, namespace, _GuardedSession(url, ca_file, timeout, guard))
        # hvac keeps the token on the client, and reads come from many threads.
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "VaultSecrets()"

    def read_secret(self, secret_id: str) -> str:
        """The value, blocking.

        Raises :class:`ResourceNotFoundError`, :class:`SecretAccessDeniedError` or :class:`SecretUnavailableError`.
        """
        name, _, key = secret_id.partition("#")
        key = key or "value"
        if _PATH.fullmatch(name) is None:
            raise SecretAccessDeniedError(
                f"Secret '{secret_id[:200]}' is no path: segments of letters, digits, underscore, dot and hyphen"
            )
        fields = self._fields(f"{self._folder}/{name}" if self._folder else name, secret_id)
        if not isinstance(fields.get(key), str):
            raise ResourceNotFoundError("Secret", secret_id, fix=f"it has no text field '{key[:100]}' in Vault")
        return str(fields[key])

    async def get_secret(self, secret_id: str) -> str:
        """As :meth:`read_secret`, in a thread."""
        return await asyncio.to_thread(self.read_secret, secret_id)

    def _fields(self, path: str, secret_id: str) -> Mapping[str, Any]:
        from hvac.exceptions import Forbidden, InvalidPath, Unauthorized, VaultError

        try:
            with self._lock:
                self._client.token = self._token()
                answer = self._client.secrets.kv.v2.read_secret_version(
                    path=path, mount_point=self._mount, raise_on_deleted_version=True
                )
            fields: Mapping[str, Any] = answer["data"]["data"]
        except InvalidPath:
            fix = f"write it to Vault: vault kv put -mount={self._mount} {path} value=…"
            raise ResourceNotFoundError("Secret", secret_id, fix=fix) from None
        except (Forbidden, Unauthorized):
            raise SecretAccessDeniedError(
                f"Secret '{secret_id[:200]}': Vault refuses the token; its policy needs `read` on "
                f"{self._mount}/data/{path}"
            ) from None
        except VaultError as exc:
            raise SecretUnavailableError(
                f"Secret '{secret_id[:200]}': Vault answered with {type(exc).__name__}"
            ) from None
        except LLMTeamError as exc:
            raise SecretUnavailableError(f"Secret '{secret_id[:200]}': Vault cannot be asked: {exc}") from None
        except (KeyError, TypeError):
            raise SecretUnavailableError(
                f"Secret '{secret_id[:200]}': the answer is not Vault's; is '{self._mount}' an engine of version 2?"
            ) from None
        return fields


def _client(url: str, namespace: str | None, session: _GuardedSession) -> Any:
    try:
        import hvac
    except ImportError:
        raise LLMTeamError("VaultSecrets: hvac is not installed; run pip install 'llmteam[vault]'") from None
    return hvac.Client(url=url, token="", session=session, namespace=namespace, allow_redirects=False)


class _GuardedSession:
    """What hvac needs of a ``requests`` session, over the outbound guard."""

    verify = cert = proxies = None

    def __init__(
        self, url: str, ca_file: str | os.PathLike[str] | None, timeout: float, guard: OutboundGuard | None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError("VaultSecrets needs a URL such as https://vault.example:8200")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._endpoint = f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"
        self._ca_file = ca_file
        self._timeout = timeout
        self._guard = guard
        self._http: HttpClient | None = None

    def request(self, method: str, url: str, headers: Mapping[str, str], **_: object) -> _Answer:
        """Called by hvac. Its other arguments are settings of ``requests`` and, for a read, empty parameters."""
        return _Answer(
            self._own_client().request(method.upper(), url, headers=headers, timeout=self._timeout, max_redirects=0)
        )

    def close(self) -> None:
        if self._http is not None:
            self._http.close()

    def _own_client(self) -> HttpClient:
        if self._http is None:
            from llmteam.net import HttpClient
            from llmteam.net.transport import tls_context

            guard = (self._guard or default_guard()).trusting(self._endpoint)
            self._http = HttpClient(guard, context=tls_context(self._ca_file))
        return self._http


class _Answer:
    """What hvac needs of a ``requests`` response."""

    def __init__(self, response: HttpResponse) -> None:
        self.status_code = response.status
        self.ok = response.ok
        self.headers = response.headers
        self._response = response

    @property
    def text(self) -> str:
        return self._response.text

    def json(self) -> Any:
        """The body; hvac expects a ``ValueError`` when it is no JSON."""
        try:
            return self._response.json()
        except LLMTeamError:
            pass
        raise ValueError("no JSON")
