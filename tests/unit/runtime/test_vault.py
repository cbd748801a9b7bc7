from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.runtime import ResourceNotFoundError, SecretAccessDeniedError, SecretUnavailableError, VaultSecrets

TOKEN, WORD = "hvs.token", "hunter2-hunter2"


class FakeVault:
    """The read part of Vault's key-value engine, version 2, on loopback."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, Any]] = {"team/crm": {"value": WORD, "user": "bot", "port": 5}}
        self.answer: tuple[int, bytes, dict[str, str]] | None = None
        self.tokens: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body, headers = outer.answer or outer.read(self.path, self.headers.get("X-Vault-Token", ""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def read(self, path: str, token: str) -> tuple[int, bytes, dict[str, str]]:
        self.tokens.append(token)
        kind = {"Content-Type": "application/json"}
        if not token.startswith(TOKEN):
            return 403, b'{"errors": ["permission denied"]}', kind
        found = self.secrets.get(path.removeprefix("/v1/secret/data/"))
        if found is None:
            return 404, b'{"errors": []}', kind
        return 200, json.dumps({"data": {"data": found, "metadata": {"version": 1}}}).encode(), kind


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    fake = FakeVault()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


def test_a_secret_is_read_by_path_and_field(vault: FakeVault):
    secrets = VaultSecrets(vault.url, TOKEN)
    assert secrets.read_secret("team/crm") == WORD
    assert secrets.read_secret("team/crm#user") == "bot"
    assert VaultSecrets(vault.url, TOKEN, folder="team").read_secret("crm") == WORD
    assert asyncio.run(secrets.get_secret("team/crm")) == WORD


def test_a_token_may_be_a_function_that_gives_the_present_one(vault: FakeVault):
    tokens = iter(["hvs.token-1", "hvs.token-2"])
    secrets = VaultSecrets(vault.url, lambda: next(tokens))
    secrets.read_secret("team/crm")
    secrets.read_secret("team/crm")
    assert vault.tokens == ["hvs.token-1", "hvs.token-2"]


def test_what_vault_does_not_have_is_not_found_and_the_error_says_how_to_write_it(vault: FakeVault):
    secrets = VaultSecrets(vault.url, TOKEN)
    with pytest.raises(ResourceNotFoundError, match="vault kv put -mount=secret team/other"):
        secrets.read_secret("team/other")
    for field in ("nothing", "port"):
        with pytest.raises(ResourceNotFoundError, match=f"no text field '{field}'"):
            secrets.read_secret(f"team/crm#{field}")


def test_a_refused_token_is_a_denial_that_names_the_policy_and_not_the_token(vault: FakeVault):
    with pytest.raises(SecretAccessDeniedError, match="`read` on secret/data/team/crm") as caught:
        VaultSecrets(vault.url, "wrong-token").read_secret("team/crm")
    assert "wrong-token" not in str(caught.value)


@pytest.mark.parametrize("name", ["../sys/seal", "a/../../x", "", "/a", "a//b", "a?version=1", "a b", "a/.b"])
def test_no_id_leads_out_of_the_engine(vault: FakeVault, name: str):
    with pytest.raises(SecretAccessDeniedError, match="is no path"):
        VaultSecrets(vault.url, TOKEN).read_secret(name)
    assert vault.tokens == []


@pytest.mark.parametrize(
    "answer",
    [
        (503, b'{"errors": ["sealed"]}', {"Content-Type": "application/json"}),
        (500, b"oops", {}),
        (429, b"{}", {}),
        (200, b"<html>", {}),
        (200, b'{"data": {}}', {"Content-Type": "application/json"}),
        (200, b"[1]", {"Content-Type": "application/json"}),
        (307, b"", {"Location": "http://127.0.0.1:9/v1/secret/data/team/crm"}),
    ],
)
def test_an_answer_that_is_none_is_retryable(vault: FakeVault, answer: tuple[int, bytes, dict[str, str]]):
    vault.answer = answer
    with pytest.raises(SecretUnavailableError) as caught:
        VaultSecrets(vault.url, TOKEN).read_secret("team/crm")
    assert caught.value.retryable is True


def test_a_vault_that_does_not_listen_is_named():
    with pytest.raises(SecretUnavailableError, match=r"127\.0\.0\.1:9"):
        VaultSecrets("http://127.0.0.1:9", TOKEN).read_secret("team/crm")


def test_a_vault_needs_a_url_and_a_token():
    with pytest.raises(ConfigurationError, match="token"):
        VaultSecrets("http://127.0.0.1:9", "")
    for url in ("", "vault.example", "unix:///x", "ftp://x"):
        with pytest.raises(ConfigurationError, match="URL"):
            VaultSecrets(url, TOKEN)
    assert TOKEN not in repr(VaultSecrets("http://127.0.0.1:9", TOKEN))


def test_a_missing_hvac_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "hvac", None)
    with pytest.raises(LLMTeamError, match=r"pip install 'llmteam\[vault\]'"):
        VaultSecrets("http://127.0.0.1:9", TOKEN)
