from __future__ import annotations

import asyncio
import copy
import io
import json
import logging
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from llmteam import codec
from llmteam.audit import AuditTrail, MemoryAuditStore
from llmteam.errors import ConfigurationError, NotJSONError
from llmteam.events.models import ErrorInfo
from llmteam.runtime import (
    ChainedSecrets,
    EnvironmentSecrets,
    FileSecrets,
    ResourceNotFoundError,
    RuntimeContextManager,
    SecretAccessDeniedError,
    SecretAllowList,
    SecretShownError,
    SecretUnavailableError,
    SecretValue,
    StepContext,
)
from llmteam.runtime.secrets import SecretReader
from llmteam.telemetry import JSONFormatter, TextFormatter, no_fields

WORD = "hunter2-hunter2"


class Counting:
    """A provider that counts and may take its time."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {"api_key": WORD}
        self.calls = 0
        self.gate: asyncio.Event | None = None

    async def get_secret(self, secret_id: str) -> str:
        self.calls += 1
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        return self.answers[secret_id]


class Plain:
    def get_secret(self, secret_id: str) -> str | None:
        return WORD if secret_id == "api_key" else None


def read(provider: Any, secret_id: str = "api_key", reader: SecretReader | None = None) -> SecretValue:
    return (reader or SecretReader()).read(provider, secret_id, tenant_id="acme", step_id="s")


def test_a_secret_is_text_that_shows_itself_only_when_used():
    secret = SecretValue(WORD)
    assert secret == WORD
    assert f"Bearer {secret}" == "Bearer " + secret == f"Bearer {WORD}"
    assert str(secret) == WORD
    assert {WORD: 1}[secret] == 1
    assert WORD not in repr(secret)
    assert WORD not in repr({"headers": [secret]})
    assert WORD not in f"{secret!r}"


def test_a_secret_stays_masked_in_logs_of_containers(caplog: pytest.LogCaptureFixture):
    logging.getLogger("t").warning("calling with %s and %r", {"key": SecretValue(WORD)}, SecretValue(WORD))
    assert WORD not in caplog.text


def test_awaiting_a_secret_gives_it():
    async def main() -> str:
        return await SecretValue(WORD)

    assert asyncio.run(main()) == WORD


def test_a_secret_does_not_leave_the_process():
    secret = SecretValue(WORD)
    with pytest.raises(TypeError, match="does not leave its process"):
        pickle.dumps({"key": secret})
    for refused in (secret, [secret], {"a": {"b": secret}}):
        with pytest.raises(NotJSONError, match="never stored or sent") as caught:
            codec.dumps(refused)
        assert WORD not in str(caught.value)
    assert copy.deepcopy({"k": secret})["k"] is secret
    assert copy.copy(secret) is secret
    assert json.loads(codec.dumps(str(secret))) == WORD


@pytest.mark.parametrize("provider", [Counting(), Plain(), Counting({"api_key": SecretValue(WORD)})])
def test_async_and_plain_providers_are_read_alike_from_a_thread_and_inside_a_running_loop(provider: Any):
    async def inside() -> str:
        return read(provider)

    assert read(provider) == asyncio.run(inside()) == WORD


@pytest.mark.parametrize("provider", [Counting(), Plain()])
def test_a_secret_that_the_provider_does_not_know_is_not_found(provider: Any):
    with pytest.raises(ResourceNotFoundError, match="Secret 'other' not found"):
        read(provider, "other")

    async def inside() -> str:
        return await SecretReader().read_async(provider, "other", tenant_id="acme")

    with pytest.raises(ResourceNotFoundError, match="Secret 'other' not found"):
        asyncio.run(inside())


def test_without_a_provider_the_error_says_how_to_register_one():
    with pytest.raises(ResourceNotFoundError, match="register_secrets_provider"):
        read(None)


def test_a_value_is_asked_for_once_per_period_and_again_after_a_rotation():
    now = [0.0]
    provider, reader = Counting(), SecretReader(ttl=10, monotonic=lambda: now[0])
    assert [read(provider, reader=reader) for _ in range(3)] == [WORD] * 3
    assert provider.calls == 1
    now[0] = 10.0
    provider.answers["api_key"] = "new"
    assert read(provider, reader=reader) == "new"
    provider.answers["api_key"] = "newer"
    reader.forget("other")
    assert read(provider, reader=reader) == "new"
    reader.forget("api_key")
    assert read(provider, reader=reader) == "newer"
    assert asyncio.run(reader.read_async(provider, "api_key", tenant_id="acme")) == "newer"
    assert provider.calls == 3


def test_another_provider_has_another_cache():
    reader = SecretReader()
    assert read(Counting({"api_key": "a"}), reader=reader) == "a"
    assert read(Counting({"api_key": "b"}), reader=reader) == "b"


def test_of_many_threads_that_miss_the_cache_one_asks_the_provider():
    provider, reader, found = Counting(), SecretReader(), list[str]()
    threads = [threading.Thread(target=lambda: found.append(read(provider, reader=reader))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [WORD] * 20
    assert provider.calls == 1


def test_a_provider_that_hangs_is_given_up_at_the_deadline():
    provider, reader = Counting(), SecretReader(timeout=0.05)
    provider.gate = asyncio.Event()
    with pytest.raises(SecretUnavailableError, match=r"did not answer within 0\.05 s") as caught:
        read(provider, reader=reader)
    assert caught.value.retryable is True

    async def inside() -> str:
        provider.gate = asyncio.Event()
        return await reader.read_async(provider, "api_key", tenant_id="acme")

    with pytest.raises(SecretUnavailableError):
        asyncio.run(inside())


def test_a_rule_is_asked_before_every_read_also_of_cached_values():
    asked: list[tuple[str, str, str]] = []

    def rule(tenant_id: str, step_id: str, secret_id: str) -> bool:
        asked.append((tenant_id, step_id, secret_id))
        return tenant_id == "acme" and step_id != "prying"

    manager = RuntimeContextManager()
    manager.register_secrets_provider(Counting(), allow=rule)
    acme, globex = manager.create_runtime("acme", "1"), manager.create_runtime("globex", "1")
    assert acme.child_context("s").get_secret("api_key") == WORD
    assert asyncio.run(acme.resolve_secret("api_key")) == WORD
    with pytest.raises(SecretAccessDeniedError, match="tenant 'globex'"):
        globex.child_context("s").get_secret("api_key")
    with pytest.raises(SecretAccessDeniedError, match="step 'prying' of tenant 'acme'"):
        acme.child_context("prying").get_secret("api_key")
    assert asked[:2] == [("acme", "s", "api_key"), ("acme", "", "api_key")]


def test_the_environment_gives_only_what_has_the_prefix():
    secrets = EnvironmentSecrets(environ={"LLMTEAM_SECRET_API_KEY": WORD, "HOME": "/", "LLMTEAM_SECRET_EMPTY": ""})
    assert read(secrets, "api_key") == read(secrets, "api-key") == WORD
    assert asyncio.run(secrets.get_secret("api_key")) == WORD
    for unknown in ("HOME", "empty", "../api_key"):
        with pytest.raises(ResourceNotFoundError, match="set LLMTEAM_SECRET_"):
            read(secrets, unknown)
    with pytest.raises(ConfigurationError, match="prefix"):
        EnvironmentSecrets("")


def test_files_are_read_without_their_last_line_break(tmp_path: Path):
    (tmp_path / "api_key").write_text(f"{WORD}\n")
    (tmp_path / "two").write_text("a\nb\r\n")
    secrets = FileSecrets(tmp_path)
    assert read(secrets) == WORD
    assert read(secrets, "two") == "a\nb"
    assert asyncio.run(secrets.get_secret("api_key")) == WORD
    with pytest.raises(ResourceNotFoundError, match="put it into the file"):
        read(secrets, "other")


@pytest.mark.parametrize("name", ["../outside", "..", ".", "/etc/passwd", "a/b", "", "a\x00b", ".hidden", "a\n"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str):
    (tmp_path / "outside").write_text(WORD)
    (tmp_path / "inside").mkdir()
    with pytest.raises(SecretAccessDeniedError, match="no file name"):
        read(FileSecrets(tmp_path / "inside"), name)


def test_links_may_stay_inside_the_folder_and_not_lead_out(tmp_path: Path):
    folder = tmp_path / "inside"
    (folder / "..data").mkdir(parents=True)
    (folder / "..data" / "api_key").write_text(WORD)
    (folder / "api_key").symlink_to("..data/api_key")
    (tmp_path / "outside").write_text(WORD)
    (folder / "evil").symlink_to("../outside")
    assert read(FileSecrets(folder)) == WORD
    with pytest.raises(SecretAccessDeniedError, match="leads out of"):
        read(FileSecrets(folder), "evil")


def test_files_that_are_no_secret_are_refused(tmp_path: Path):
    (tmp_path / "big").write_bytes(b"x" * 70_000)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    secrets = FileSecrets(tmp_path)
    with pytest.raises(SecretUnavailableError, match="larger than"):
        read(secrets, "big")
    with pytest.raises(SecretUnavailableError, match="not UTF-8"):
        read(secrets, "binary")
    with pytest.raises(ResourceNotFoundError):
        read(secrets, "folder")


def test_a_chain_takes_the_first_that_has_it_and_names_every_fix_when_none_has(tmp_path: Path):
    (tmp_path / "from_file").write_text("file")
    chain = ChainedSecrets(
        EnvironmentSecrets(environ={"LLMTEAM_SECRET_API_KEY": "env"}), Plain(), FileSecrets(tmp_path)
    )
    assert read(chain, "api_key") == "env"
    assert read(chain, "from_file") == "file"
    with pytest.raises(ResourceNotFoundError, match=r"set LLMTEAM_SECRET_OTHER.*Plain.*put it into the file"):
        read(chain, "other")
    with pytest.raises(SecretAccessDeniedError):
        read(chain, "../x")
    with pytest.raises(ConfigurationError):
        ChainedSecrets()


# -- who may read what


ALLOW = SecretAllowList({"acme": {"charge": ["stripe"], "*": ["mail/*"], "": ["boot"]}, "*": {"*": ["weather"]}})


@pytest.mark.parametrize(
    ("tenant", "step", "secret", "allowed"),
    [
        ("acme", "charge", "stripe", True),
        ("acme", "charge", "mail/smtp", True),
        ("acme", "other", "mail/smtp", True),
        ("acme", "", "boot", True),
        ("globex", "charge", "weather", True),
        ("acme", "other", "stripe", False),
        ("acme", "charge", "stripe2", False),
        ("acme", "charge", "mail", False),
        ("acme", "charge", "boot", False),
        ("globex", "charge", "stripe", False),
        ("globex", "charge", "mail/smtp", False),
        ("acme2", "charge", "stripe", False),
        ("*", "charge", "stripe", False),
        ("acme", "*", "stripe", False),
    ],
)
def test_a_secret_is_open_to_the_tenants_and_steps_that_are_listed(
    tenant: str, step: str, secret: str, allowed: bool
) -> None:
    assert ALLOW(tenant, step, secret) is allowed


def test_an_empty_list_opens_nothing_and_one_text_is_no_list():
    assert not SecretAllowList({})("acme", "charge", "stripe")
    with pytest.raises(TypeError, match="not one text"):
        SecretAllowList({"acme": {"charge": "stripe"}})


def guarded(trail: Any = None) -> tuple[StepContext, MemoryAuditStore]:
    store = MemoryAuditStore()
    manager = RuntimeContextManager()
    manager.register_secrets_provider(Counting(), allow=SecretAllowList({"acme": {"charge": ["api_key"]}}))
    trail = trail or AuditTrail(store, tenant_id="acme")
    return manager.create_runtime("acme", "i", run_id="run-1", audit_trail=trail).child_context("charge"), store


def test_reads_and_refusals_are_audited_by_id_and_once_in_an_attempt():
    ctx, store = guarded()

    for _ in range(3):
        ctx.get_secret("api_key")
    for _ in range(2):
        with pytest.raises(SecretAccessDeniedError):
            ctx.get_secret("stripe")

    told = [(r.event_type.name, r.actor_id, r.actor_type, r.resource_id, r.run_id, r.success) for r in store.get_all()]
    assert told == [
        ("ACCESS_GRANTED", "charge", "step", "api_key", "run-1", True),
        *[("ACCESS_DENIED", "charge", "step", "stripe", "run-1", False)] * 2,
    ]
    assert WORD not in repr(store.get_all())


def test_a_runtime_that_reads_for_itself_is_audited_too():
    ctx, store = guarded()
    ctx.runtime.secret_reader.allow = SecretAllowList({"acme": {"": ["api_key"]}})

    assert asyncio.run(ctx.runtime.resolve_secret("api_key")) == WORD
    with pytest.raises(SecretAccessDeniedError):
        asyncio.run(ctx.runtime.resolve_secret("stripe"))

    assert [(r.event_type.name, r.actor_type) for r in store.get_all()] == [
        ("ACCESS_GRANTED", "run"),
        ("ACCESS_DENIED", "run"),
    ]


def test_a_read_that_cannot_be_audited_gives_nothing():
    class Broken:
        def log_sync(self, event_type: Any, **fields: Any) -> object:
            raise OSError("no trail")

    ctx, _ = guarded(Broken())
    for _ in range(2):
        with pytest.raises(OSError, match="no trail"):
            ctx.get_secret("api_key")


def test_state_and_annotations_refuse_a_secret_inside_other_text():
    ctx, _ = guarded()
    secret = ctx.get_secret("api_key")

    for keep in (ctx.set_state, ctx.annotate):
        with pytest.raises(SecretShownError, match="charge") as caught:
            keep("header", {"Authorization": [f"Bearer {secret}"]})
        assert WORD not in str(caught.value)
        keep("header", {"Authorization": "from the secret api_key"})
    assert ctx.local_state == {"header": {"Authorization": "from the secret api_key"}}


def test_an_error_text_is_redacted_before_it_is_cut():
    ctx, _ = guarded()
    secret = ctx.get_secret("api_key")

    for length in range(1980, 2001):
        info = ErrorInfo.from_exception(ValueError("x" * length + secret), redact=ctx.redact)
        assert "hunter2" not in info.error_message
        assert not info.error_message.rstrip("…").endswith("hunt")


def test_a_log_of_our_own_processes_masks_secrets_in_messages_and_tracebacks():
    stream = io.StringIO()
    ctx, _ = guarded()
    secret = ctx.get_secret("api_key")
    for formatter in (TextFormatter("t", no_fields), JSONFormatter("t", no_fields)):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger = logging.getLogger("secret.log")
        logger.addHandler(handler)
        try:
            raise ValueError(f"Bearer {secret}")
        except ValueError:
            logger.exception("calling with %s and %s", secret, f"key={secret}")
        logger.removeHandler(handler)

    assert WORD not in stream.getvalue()
    assert stream.getvalue().count("***") >= 6
