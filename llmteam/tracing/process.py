"""Whether this process traces, and with what: made on first use, anew in a forked child."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llmteam.errors import ConfigurationError
from llmteam.tracing.models import Tracer
from llmteam.variables import variable

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from llmteam.settings import Settings

__all__ = ["FLUSH_SECONDS", "check", "flush", "set_up", "tracer"]

#: Seconds that a process which ends takes at most to hand on its last spans.
FLUSH_SECONDS = 2.0

_SDK = "opentelemetry.sdk.trace"


class _Process:
    """What this process shares, guarded by ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.settings: Settings | None = None
        self.provider: TracerProvider | None = None
        self.tracer: Tracer | None = None
        self.pid = 0
        self.at_exit = False


_process = _Process()


def set_up(settings: Settings | None = None, *, provider: TracerProvider | None = None) -> None:
    """Trace runs from now on: with ``provider``, else as ``settings`` say, if they name a collector.

    Without either, or where the settings name none, spans go to the global provider of the process if it has one.
    Raises :class:`ConfigurationError` when the extra is not installed.
    """
    if settings is not None and settings.traces is None and provider is None:
        return
    if settings is not None:
        check(settings)
    with _process.lock:
        _process.settings, _process.provider, _process.tracer = settings, provider, None


def check(settings: Settings) -> None:
    """Load what traces need, if they are wanted: before a fork, once for all children.

    Raises :class:`ConfigurationError` when it is not installed, unless the address of a collector only stands in a
    variable that is meant for all programs.
    """
    if settings.traces is None or _is_usable():
        return
    if not settings.origins.get("traces", "").startswith("OTEL_"):
        raise ConfigurationError(
            f"{variable('traces')} is set, but OpenTelemetry is not installed: run pip install 'llmteam[otel]', or "
            f"unset {variable('traces')}"
        )


def _is_usable() -> bool:
    try:
        if find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter") is None:
            return False
        import llmteam.tracing.otel
    except ImportError:
        return False
    return bool(llmteam.tracing.otel)


def tracer() -> Tracer | None:
    """The tracer of this process; None while nothing is to be traced."""
    pid = os.getpid()
    if _process.tracer is not None and _process.pid == pid:
        return _process.tracer
    if _process.settings is None and _process.provider is None and _SDK not in sys.modules:
        return None
    if _process.pid != pid and _process.pid:
        # A lock that was held at the fork would stay so.
        _process.lock = threading.Lock()
    with _process.lock:
        if _process.tracer is None or _process.pid != pid:
            _process.tracer, _process.pid = _made(_process), pid
        return _process.tracer


def _made(process: _Process) -> Tracer | None:
    if process.settings is not None and not _is_usable():
        return None
    from llmteam.tracing import otel

    made = otel.tracer_of(process.settings, process.provider)
    if made is not None and not process.at_exit:
        process.at_exit = True
        atexit.register(flush)
    return made


def flush(seconds: float = FLUSH_SECONDS) -> None:
    """Hand on the spans of this process that were not yet, if there are any; for its end. Never raises."""
    if _process.tracer is not None and _process.pid == os.getpid():
        _process.tracer.flush(seconds)
