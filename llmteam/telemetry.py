"""Logging of our own processes: one line per record, as text or JSON, with tenant, run and step where known."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TextIO

from llmteam.masking import hide_logins, never_logged
from llmteam.settings import Settings

_log = logging.getLogger(__name__)

#: Asked for each record: whose work the logging code does, like ``{"tenant_id": …, "run_id": …, "step_id": …}``.
Fields = Callable[[], Mapping[str, object]]

#: Loggers that write a line or more per hint, connection or request; shown with DEBUG only.
_TALKATIVE = (
    "celery.app.trace",
    "celery.worker.strategy",
    "celery.beat",
    "httpcore",
    "httpx",
    "openai",
    "alembic",
    "kombu",
    "amqp",
    "urllib3",
    "asyncio",
)
#: What would break a line, or steer a terminal (C0 without tab, DEL, C1).
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09} | {0x0A: "\\n"}


def no_fields() -> Mapping[str, object]:
    """Nothing is known of who works."""
    return {}


def printable(text: str) -> str:
    """``text`` on one line and without characters that steer a terminal."""
    return text.translate(_CONTROL)


def set_up(
    settings: Settings, program: str = "llmteam", fields: Fields = no_fields, stream: TextIO | None = None
) -> None:
    """Send all records of this process to ``stream`` (standard error) as the settings say. Again: anew."""
    handler = logging.StreamHandler(stream or sys.stderr)
    formatter = JSONFormatter(program, fields) if settings.log_format == "json" else TextFormatter(program, fields)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    quieter = logging.NOTSET if settings.log_level == "DEBUG" else max(logging.WARNING, root.level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(quieter)
    # It complains of every moment in which no worker answers.
    logging.getLogger("flower.inspector").setLevel(max(quieter, logging.ERROR if quieter else logging.NOTSET))
    logging.captureWarnings(capture=True)


def log_uncaught() -> None:
    """Have what ends a thread, or happens where nobody can catch it, go to the log like everything else.

    The interpreter writes it to standard error as it is, with whatever secrets stand in it.
    """

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            name = args.thread.name if args.thread else "a thread"
            _log.error("%s ended", name, exc_info=args.exc_value)

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        _log.error("%s", args.err_msg or "an error that nobody could catch", exc_info=args.exc_value)

    threading.excepthook, sys.unraisablehook = of_thread, unraisable


class _Formatter(logging.Formatter):
    def __init__(self, program: str, fields: Fields) -> None:
        super().__init__()
        self._program = program
        self._fields = fields

    def known(self, record: logging.LogRecord) -> dict[str, object]:
        """Whose work it is; a look-up that fails must not lose the record."""
        try:
            found = dict(self._fields())
        except Exception:  # noqa: BLE001
            found = {}
        given = {name: getattr(record, name) for name in ("tenant_id", "run_id", "step_id") if hasattr(record, name)}
        return {**found, **given}

    def message(self, record: logging.LogRecord) -> str:
        return never_logged.redact(hide_logins(record.getMessage()))

    def trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        parts += [record.stack_info] if record.stack_info else []
        return never_logged.redact(hide_logins("\n".join(parts)))


class TextFormatter(_Formatter):
    """``time LEVEL program logger: message [run=… step=… tenant=…]``; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(sep=" ", timespec="milliseconds")
        known = " ".join(f"{name.removesuffix('_id')}={value}" for name, value in self.known(record).items())
        line = f"{record.levelname:<7} {self._program}[{os.getpid()}] {record.name}: {self.message(record)}"
        text = f"{moment.removesuffix('+00:00')}Z {printable(line + (f' [{known}]' if known else ''))}"
        trace = self.trace(record)
        return f"{text}\n{trace}" if trace else text


class JSONFormatter(_Formatter):
    """One JSON object per line: time, level, logger, message, program, pid, then what is known, then a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self.message(record),
            "program": self._program,
            "pid": os.getpid(),
            **self.known(record),
        }
        trace = self.trace(record)
        if trace:
            document["traceback"] = trace
        return json.dumps(document, ensure_ascii=False, default=str)
