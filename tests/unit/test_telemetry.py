from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from llmteam import telemetry
from llmteam.settings import Settings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def written(
    log_format: str, message: str, *args: object, fields: telemetry.Fields = telemetry.no_fields, **more
) -> str:
    stream = io.StringIO()
    telemetry.set_up(Settings(log_format=log_format), "threads", fields, stream)  # type: ignore[arg-type]
    logging.getLogger("shop").info(message, *args, **more)
    return stream.getvalue()


def known() -> dict[str, object]:
    return {"tenant_id": "acme", "run_id": "r1", "step_id": "fetch"}


def test_a_json_record_is_one_line_with_whose_step_it_is() -> None:
    document = json.loads(written("json", "asked %s", "twice", fields=known))

    assert (
        document.items() >= {"level": "INFO", "logger": "shop", "message": "asked twice", "program": "threads"}.items()
    )
    assert document.items() >= known().items()
    assert document["time"].endswith("+00:00")


def test_text_says_it_too() -> None:
    line = written("text", "asked", fields=known)

    assert "INFO    threads[" in line
    assert line.endswith("shop: asked [tenant=acme run=r1 step=fetch]\n")


def test_a_message_cannot_forge_a_line_or_steer_a_terminal() -> None:
    line = written("text", "a\n2026 ERROR forged \x1b[2J\x9b")

    assert line.count("\n") == 1
    assert "a\\n2026 ERROR forged \\x1b[2J\\x9b" in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_passwords_in_urls_are_hidden_in_messages_and_tracebacks(log_format: str) -> None:
    try:
        raise ValueError("redis://:hunter2@host")
    except ValueError:
        text = written(log_format, "lost %s", "postgresql://me:hunter2@host/x", exc_info=True)

    assert "hunter2" not in text
    assert "redis://***@host" in text
    assert "Traceback" in text


def test_a_look_up_that_fails_loses_no_record() -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError

    assert "shop: asked" in written("text", "asked", fields=broken)


def test_what_is_logged_per_hint_needs_debug() -> None:
    stream = io.StringIO()
    telemetry.set_up(Settings(), stream=stream)
    logging.getLogger("celery.app.trace").info("succeeded")
    telemetry.set_up(Settings(log_level="DEBUG"), stream=stream)
    logging.getLogger("celery.app.trace").info("again")

    assert "succeeded" not in stream.getvalue()
    assert "again" in stream.getvalue()
