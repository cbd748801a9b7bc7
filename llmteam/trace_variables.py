"""How the variables of traces are read, ours and OpenTelemetry's own. Pure; :mod:`llmteam.settings` uses it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from llmteam.variables import bad, http_url

#: Where a collector takes traces (OTLP 1.x, "OTLP/HTTP Request").
_TRACES_PATH = "/v1/traces"
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::\d{1,5})?")


def collector(name: str, text: str) -> str:
    """A collector; one without a path takes traces where the protocol says."""
    parts = urlsplit(http_url(name, text))
    return text.rstrip("/") + _TRACES_PATH if parts.path in ("", "/") and not parts.query else text


def of_opentelemetry(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable of OpenTelemetry's own that names a collector, and the collector; None when no spans go to one.

    As in OpenTelemetry's "OTLP Exporter Configuration". Raises :class:`ConfigurationError`.
    """

    def value(name: str) -> str:
        return environment.get(name, "").strip()

    protocol = value("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or value("OTEL_EXPORTER_OTLP_PROTOCOL")
    exporters = _parts(value("OTEL_TRACES_EXPORTER")) or ("otlp",)
    if protocol not in ("", "http/protobuf") or "otlp" not in exporters:
        return None
    for name, path in (("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ""), ("OTEL_EXPORTER_OTLP_ENDPOINT", _TRACES_PATH)):
        if value(name):
            return name, http_url(name, value(name)).rstrip("/") + path
    return None


def fraction(name: str, text: str) -> float:
    """A part of a whole."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise bad(name, "a number from 0 to 1", text)
    return value


def hosts(name: str, text: str) -> tuple[str, ...]:
    """Hosts with or without a port, or ``*`` for all."""
    for part in _parts(text):
        if part != "*" and _HOST.fullmatch(part) is None:
            raise bad(name, "hosts separated by commas, like api.example.com,10.0.0.7:8080, or *", part)
    return _parts(text)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)
