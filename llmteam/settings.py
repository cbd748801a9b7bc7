"""Settings: ``LLMTEAM_*`` variables as one frozen value that remembers where each part came from."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qs, urlsplit

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.ids import check_identifier

#: Variables that keep the name which their own tools gave them.
_FOREIGN_NAMES = {"openai_api_key", "openai_base_url", "anthropic_api_key"}
_POSTGRES_SCHEMES = {"postgresql", "postgres", "postgresql+psycopg2"}
_REDIS_SCHEMES = {"redis", "rediss"}
_USERINFO = re.compile(r"(://[^:/?#@]*|^[^:/?#@]*):(?!//).*@", re.DOTALL)
_SECRET_QUERY = re.compile(r"((?:^|[?&\s])[^=&\s]*(?:password|secret|token)=)[^&\s]*", re.IGNORECASE)
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_PRIVATE_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:/\d{1,3})?\]|[A-Za-z0-9_*.-]+(?:/\d{1,2})?):(\d{1,5})")
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_MIB = 1024 * 1024


def variable(name: str) -> str:
    """The environment variable of the setting ``name``."""
    return name.upper() if name in _FOREIGN_NAMES else f"LLMTEAM_{name.upper()}"


def mask_url(url: str) -> str:
    """``url`` with passwords replaced by ``***``; rather hides too much than too little of a malformed one."""
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub(r"\1:***@", url))


@dataclass(frozen=True, repr=False)
class Settings:
    """Everything that a process of this package can be told from outside.

    ``None`` for a server's URL means the embedded one. ``redis_url`` and ``result_backend`` follow ``broker_url``
    when that is a Redis. Times are in seconds, sizes in bytes.
    """

    database_url: str | None = None
    broker_url: str | None = None
    result_backend: str | None = None
    redis_url: str | None = None
    home: Path = Path(".llmteam")
    #: Modules that a worker imports to register step types, handlers and resources.
    imports: tuple[str, ...] = ()
    #: (key id, 32 bytes), the current key first; older ones only decrypt.
    encryption_keys: tuple[tuple[str, bytes], ...] = ()
    #: HMAC key per tenant; when any is set, an unsigned ``llmteam.start_run`` is refused.
    start_keys: Mapping[str, bytes] = field(default_factory=dict, hash=False)
    #: ``host-or-CIDR:port`` that segments may call although the address is private.
    allow_private_networks: tuple[str, ...] = ()
    lease_seconds: float = 30.0
    sweep_seconds: float = 5.0
    #: What running steps get to finish at a shutdown, before they are handed back.
    drain_seconds: float = 25.0
    #: Messages in a queue that is being worked off, from which on no more hints are added to it.
    hint_depth: int = 1000
    #: Days for which runs are kept that are over; for ever when unset.
    retention_days: float | None = None
    #: How long a worker may receive nothing although messages wait for it.
    deaf_seconds: float = 30.0
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
    openai_api_key: str | None = None
    openai_base_url: str | None = None
    anthropic_api_key: str | None = None
    max_output_bytes: int = _MIB
    #: Outputs up to this size stay in the step's row; larger ones are stored once by content hash.
    inline_bytes: int = 8192
    step_timeout_seconds: float = 600.0
    #: Where a value came from, by field name; fields that are not listed have their default.
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        derived = dict(self.origins)
        for name, derive in (("redis_url", _redis_of), ("result_backend", _backend_of)):
            if getattr(self, name) is None and self.broker_url is not None:
                value = derive(self.broker_url)
                if value is not None:
                    object.__setattr__(self, name, value)
                    derived[name] = f"from {variable('broker_url')}"
        object.__setattr__(self, "origins", derived)

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read ``env`` (the process environment when omitted); an empty variable counts as unset.

        Raises :class:`ConfigurationError` that names the variable, the shape it needs and the fix.
        """
        environment = os.environ if env is None else env
        values: dict[str, Any] = {}
        for name, parse in _PARSERS.items():
            text = environment.get(variable(name), "").strip()
            if text:
                values[name] = parse(variable(name), text)
        origins = dict.fromkeys(values, "environment")
        settings = cls(**values, origins=origins)
        if settings.inline_bytes > settings.max_output_bytes:
            raise _bad(variable("inline_bytes"), f"at most {variable('max_output_bytes')}", settings.inline_bytes)
        return settings

    def with_servers(self, *, database_url: str, broker_url: str) -> Settings:
        """These settings with the embedded servers in place of every server that was not set."""
        values: dict[str, Any] = {}
        if self.database_url is None:
            values["database_url"] = database_url
        if self.broker_url is None:
            values["broker_url"] = broker_url
        origins = {**self.origins, **dict.fromkeys(values, "embedded server")}
        return replace(self, **values, origins=origins)

    def sources(self) -> list[tuple[str, str, str]]:
        """(variable, value with secrets masked, where it came from) of every setting, for ``llmteam doctor``."""
        return [
            (variable(name), _shown(name, getattr(self, name)), self.origins.get(name, "default")) for name in _PARSERS
        ]

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={_shown(name, getattr(self, name))}" for name in _PARSERS if getattr(self, name) != _DEFAULTS[name]
        )
        return f"Settings({shown})"


def _bad(name: str, shape: str, shown: object, fix: str = "") -> ConfigurationError:
    hint = fix or f"correct {name} or unset it"
    return ConfigurationError(f"{name} is {shown!r}, but must be {shape}: {hint}")


def _bad_secret(name: str, shape: str, which: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {which} is not {shape}: correct {name} or unset it")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _postgres_url(name: str, text: str) -> str:
    if _split(text).scheme not in _POSTGRES_SCHEMES:
        raise _bad(name, "a Postgres URL like postgresql://user:password@host:5432/database", mask_url(text))
    return text


def _broker_url(name: str, text: str) -> str:
    scheme = _split(text).scheme
    if scheme == "unix":
        raise _bad(
            name, "a Celery broker URL", mask_url(text), "Celery writes a socket redis+socket:///path?virtual_host=0"
        )
    if not scheme or "://" not in text:
        raise _bad(name, "a URL like redis://host:6379/0", mask_url(text))
    return text


def _redis_url(name: str, text: str) -> str:
    found = _redis_of(text) or (text if text.startswith("unix://") else None)
    if found is None:
        raise _bad(name, "a URL like redis://host:6379/0 or unix:///path?db=0", mask_url(text))
    return found


def _redis_of(broker_url: str) -> str | None:
    """What redis-py calls the server that Celery calls ``broker_url``, or None when that is no Redis."""
    parts = _split(broker_url)
    if parts.scheme in _REDIS_SCHEMES:
        return broker_url
    if parts.scheme != "redis+socket":
        return None
    number = parse_qs(parts.query).get("virtual_host", ["0"])[0].strip("/") or "0"
    credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return f"unix://{credentials}{parts.path}?db={number}"


def _backend_of(broker_url: str) -> str | None:
    return broker_url if _redis_of(broker_url) is not None else None


def _http_url(name: str, text: str) -> str:
    parts = _split(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise _bad(name, "an http or https URL", mask_url(text))
    return text


def _text(name: str, text: str) -> str:
    return text


def _path(name: str, text: str) -> Path:
    return Path(text).expanduser()


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


def _modules(name: str, text: str) -> tuple[str, ...]:
    for part in _parts(text):
        if _MODULE.fullmatch(part) is None:
            raise _bad(name, "module names separated by commas, like myapp.steps,myapp.tools", part)
    return _parts(text)


def _networks(name: str, text: str) -> tuple[str, ...]:
    for part in _parts(text):
        match = _PRIVATE_HOST.fullmatch(part)
        if match is None or not 1 <= int(match[1]) <= 65535:
            raise _bad(name, "host:port or CIDR:port, separated by commas, like 10.0.0.0/8:443,[fd00::/8]:443", part)
    return _parts(text)


def _decoded(name: str, which: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, altchars=b"-_" if "-" in text or "_" in text else None, validate=True)
    except (binascii.Error, ValueError):
        raise _bad_secret(name, "base64", which) from None


def _encryption_keys(name: str, text: str) -> tuple[tuple[str, bytes], ...]:
    keys: dict[str, bytes] = {}
    for index, part in enumerate(_parts(text), start=1):
        key_id, separator, encoded = part.partition(":")
        if not separator or _KEY_ID.fullmatch(key_id) is None or key_id in keys:
            raise _bad_secret(name, "'id:base64 of 32 bytes' with an id of its own", f"entry {index}")
        key = _decoded(name, f"the key {key_id}", encoded)
        if len(key) != 32:
            raise _bad_secret(name, "32 bytes long", f"the key {key_id}")
        keys[key_id] = key
    return tuple(keys.items())


def _start_keys(name: str, text: str) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for index, part in enumerate(_parts(text), start=1):
        tenant, separator, encoded = part.partition("=")
        try:
            check_identifier("tenant", tenant)
        except LLMTeamError:
            separator = ""
        if not separator or tenant in keys:
            raise _bad_secret(name, "'tenant=base64' with a tenant of its own", f"entry {index}")
        key = _decoded(name, f"the key of tenant {tenant}", encoded)
        if len(key) < 16:
            raise _bad_secret(name, "at least 16 bytes long", f"the key of tenant {tenant}")
        keys[tenant] = key
    return keys


def _seconds(least: float, most: float) -> Callable[[str, str], float]:
    return _number(least, most, "seconds")


def _number(least: float, most: float, unit: str) -> Callable[[str, str], float]:
    def parse(name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise _bad(name, f"a number of {unit} from {least:g} to {most:g}", text)
        return value

    return parse


def _days(least: float, most: float) -> Callable[[str, str], float]:
    return _number(least, most, "days")


def _count(least: int, most: int) -> Callable[[str, str], int]:
    return _whole(least, most, "")


def _bytes(least: int, most: int) -> Callable[[str, str], int]:
    return _whole(least, most, " of bytes")


def _whole(least: int, most: int, unit: str) -> Callable[[str, str], int]:
    def parse(name: str, text: str) -> int:
        value = int(text) if re.fullmatch(r"[0-9]{1,12}", text) else -1
        if not least <= value <= most:
            raise _bad(name, f"a whole number{unit} from {least} to {most}", text)
        return value

    return parse


def _log_level(name: str, text: str) -> str:
    if text.upper() not in _LOG_LEVELS:
        raise _bad(name, "one of " + ", ".join(_LOG_LEVELS), text)
    return text.upper()


def _log_format(name: str, text: str) -> str:
    if text.lower() not in {"text", "json"}:
        raise _bad(name, "text or json", text)
    return text.lower()


#: Every setting that has a variable, in the order in which ``doctor`` shows them.
_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "database_url": _postgres_url,
    "broker_url": _broker_url,
    "result_backend": _broker_url,
    "redis_url": _redis_url,
    "home": _path,
    "imports": _modules,
    "encryption_keys": _encryption_keys,
    "start_keys": _start_keys,
    "allow_private_networks": _networks,
    "lease_seconds": _seconds(0.5, 3600),
    "sweep_seconds": _seconds(0.1, 3600),
    "drain_seconds": _seconds(0, 3600),
    "hint_depth": _count(1, 10_000_000),
    "retention_days": _days(0.01, 36_500),
    "deaf_seconds": _seconds(1, 86400),
    "log_level": _log_level,
    "log_format": _log_format,
    "openai_api_key": _text,
    "openai_base_url": _http_url,
    "anthropic_api_key": _text,
    # Postgres takes no value over 1 GB, and a statement carries it as escaped text.
    "max_output_bytes": _bytes(1024, 256 * _MIB),
    "inline_bytes": _bytes(0, 256 * _MIB),
    "step_timeout_seconds": _seconds(0.1, 7 * 86400),
}
_DEFAULTS: dict[str, object] = {
    item.name: {} if item.name == "start_keys" else item.default for item in fields(Settings)
}


def _shown(name: str, value: object) -> str:
    """``value`` as a person may see it: secrets masked, nothing rendered as Python."""
    if value is None:
        return "embedded" if name in {"database_url", "broker_url"} else "not set"
    if name == "encryption_keys" and isinstance(value, tuple):
        return ",".join(f"{key_id}:***" for key_id, _ in value) or "not set"
    if name == "start_keys" and isinstance(value, Mapping):
        return ",".join(f"{tenant}=***" for tenant in value) or "not set"
    if name.endswith("_api_key"):
        return "***"
    if isinstance(value, tuple):
        return ",".join(value) or "not set"
    if isinstance(value, float):
        return f"{value:g}"
    return mask_url(str(value))
