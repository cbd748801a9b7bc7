"""Settings: ``LLMTEAM_*`` variables as one frozen value that remembers where each part came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from llmteam import trace_variables, variables
from llmteam.errors import ConfigurationError
from llmteam.regions import DEFAULT_REGION
from llmteam.variables import file_variable, mask_path, mask_url, variable

__all__ = ["Settings", "file_variable", "mask_url", "variable"]

_MIB = 1024 * 1024


@dataclass(frozen=True, repr=False)
class Settings:
    """Everything that a process of this package can be told from outside.

    ``None`` for a server's URL means the embedded one. ``redis_url`` and ``result_backend`` follow ``broker_url``
    when that is a Redis. Times are in seconds, sizes in bytes.
    """

    database_url: str | None = None
    #: The same database with the login that may change its tables; ``database_url`` when unset. Only migrations use it.
    migration_url: str | None = None
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
    #: HMAC key per tenant; exported runs of these tenants are signed, and refused at import without the signature.
    snapshot_keys: Mapping[str, bytes] = field(default_factory=dict, hash=False)
    #: ``host-or-CIDR:port`` that segments may call although the address is private.
    allow_private_networks: tuple[str, ...] = ()
    lease_seconds: float = 30.0
    sweep_seconds: float = 5.0
    #: What running steps get to finish at a shutdown, before they are handed back.
    drain_seconds: float = 25.0
    #: Messages in a queue that is being worked off, from which on no more hints are added to it.
    hint_depth: int = 1000
    #: Connections to Postgres that a process which starts or runs steps opens at most.
    database_connections: int = 16
    #: Days for which runs are kept that are over; for ever when unset.
    retention_days: float | None = None
    #: How long a worker may receive nothing although messages wait for it.
    deaf_seconds: float = 30.0
    #: PEM files of Ed25519 keys: the first signs what retention removes from audit trails, all are trusted.
    audit_keys: tuple[Path, ...] = ()
    #: Days for which audit records are kept of tenants without a record; for ever when unset.
    audit_retention_days: float | None = None
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
    openai_api_key: str | None = None
    openai_base_url: str | None = None
    anthropic_api_key: str | None = None
    max_output_bytes: int = _MIB
    #: Outputs up to this size stay in the step's row; larger ones are stored once by content hash.
    inline_bytes: int = 8192
    step_timeout_seconds: float = 600.0
    #: Keys of answer links and access tokens: the first signs, all verify.
    web_keys: tuple[bytes, ...] = ()
    #: Where people reach the web inbox; links in notifications begin with it. No final slash.
    public_url: str | None = None
    notify_webhook_url: str | None = None
    notify_webhook_key: bytes | None = None
    notify_slack_url: str | None = None
    notify_teams_url: str | None = None
    smtp_url: str | None = None
    #: Deliveries that are tried before a notification counts as dead.
    notify_attempts: int = 8
    #: Tier of tenants without a record.
    default_tier: str = "enterprise"
    #: Worker processes that share the limits of what they call: each takes this part of a limit while Redis is away.
    limit_workers: int = 1
    #: Where this process runs steps: those of tenants with this ``data_region``.
    region: str = DEFAULT_REGION
    #: What checks licence keys: an Ed25519 public key as PEM, or the path of a file with one.
    license_public_key: str | None = None
    #: The licence of this process: its key, or a file with it.
    license_key: str | None = None
    license_file: Path | None = None
    #: Ids of licences that are worth nothing.
    license_revoked: tuple[str, ...] = ()
    #: Whether keys without a signature are taken; see :attr:`takes_unsigned_licenses`.
    license_unsigned: bool = False
    #: Where ``worker`` and ``beat`` tell how they are: host and port. Nowhere when unset.
    health: tuple[str, int] | None = None
    #: Where traces of runs go: an OTLP/HTTP collector. Nowhere when unset.
    traces: str | None = None
    #: The part of runs that is traced, 0 to 1; as ``OTEL_TRACES_SAMPLER`` says when unset.
    traces_ratio: float | None = None
    #: Hosts whom requests may tell of their trace; ``*`` for all.
    traces_hosts: tuple[str, ...] = ()
    #: Where a value came from, by field name; fields that are not listed have their default.
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        derived = dict(self.origins)
        for name, derive in (("redis_url", variables.redis_of), ("result_backend", variables.backend_of)):
            if getattr(self, name) is None and self.broker_url is not None:
                value = derive(self.broker_url)
                if value is not None:
                    object.__setattr__(self, name, value)
                    derived[name] = f"from {variable('broker_url')}"
        object.__setattr__(self, "origins", derived)

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read ``env`` (the process environment when omitted); an empty variable counts as unset.

        A variable with ``_FILE`` at its end names a file with the value, as secrets come into containers.
        Raises :class:`ConfigurationError` that names the variable, the shape it needs and the fix.
        """
        environment = os.environ if env is None else env
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for name, parse in _PARSERS.items():
            text = environment.get(variable(name), "").strip()
            path = environment.get(file_variable(name), "").strip()
            if path:
                origins[name] = f"file {path}"
                values[name] = parse(variable(name), _in_file(file_variable(name), path, beside=text))
            elif text:
                origins[name] = "environment"
                values[name] = parse(variable(name), text)
        if "traces" not in values and (found := trace_variables.of_opentelemetry(environment)) is not None:
            origins["traces"], values["traces"] = found
        settings = cls(**values, origins=origins)
        if settings.migration_url is not None and settings.database_url is None:
            raise ConfigurationError(
                f"{variable('migration_url')} is set and {variable('database_url')} is not: "
                "set both, to two logins of one database, or neither for the embedded servers"
            )
        if settings.inline_bytes > settings.max_output_bytes:
            most = f"at most {variable('max_output_bytes')}"
            raise variables.bad(variable("inline_bytes"), most, settings.inline_bytes)
        return settings

    def with_servers(self, *, database_url: str, broker_url: str, migration_url: str | None = None) -> Settings:
        """These settings with the embedded servers in place of every server that was not set."""
        values: dict[str, Any] = {}
        if self.database_url is None:
            values |= {"database_url": database_url, "migration_url": migration_url}
        if self.broker_url is None:
            values["broker_url"] = broker_url
        origins = {**self.origins, **dict.fromkeys(values, "embedded server")}
        return replace(self, **values, origins=origins)

    @classmethod
    def of_installation(
        cls, settings: Settings | None = None, *, database_url: str | None = None, broker_url: str | None = None
    ) -> Settings:
        """``settings``, else what :meth:`load` gives, with a caller's own servers in place of those it names.

        Raises :class:`ConfigurationError` when no database is named.
        """
        found = settings or cls.load()
        if database_url is not None:
            found = replace(found, database_url=database_url, migration_url=None)
        if broker_url is not None:
            found = replace(found, broker_url=broker_url, result_backend=None, redis_url=None)
        if found.database_url is None:
            raise ConfigurationError(
                "LLMTEAM_DATABASE_URL is not set and no embedded servers are running: set it, or use `llmteam up`"
            )
        return found

    def redis_beside(self, broker_url: str) -> str | None:
        """What processes share besides a Celery app's broker: the Redis that is named, else the broker if it is one."""
        return self.redis_url or variables.redis_of(broker_url)

    def with_web_key(self, key: str) -> Settings:
        """These settings with ``key``, the home's own."""
        return replace(self, web_keys=(key.encode(),), origins={**self.origins, "web_keys": "kept in the home"})

    def with_encryption_key(self, key: tuple[str, bytes]) -> Settings:
        """These settings with ``key``, the home's own."""
        return replace(self, encryption_keys=(key,), origins={**self.origins, "encryption_keys": "kept in the home"})

    @property
    def takes_unsigned_licenses(self) -> bool:
        """Whether keys that anyone can write are taken: when that is said, and never beside a server that is named."""
        return self.license_unsigned and self.origins.get("database_url", "embedded server") == "embedded server"

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


#: Every setting that has a variable, in the order in which ``doctor`` shows them.
_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "database_url": variables.postgres_url,
    "migration_url": variables.postgres_url,
    "broker_url": variables.broker_url,
    "result_backend": variables.broker_url,
    "redis_url": variables.redis_url,
    "home": variables.path,
    "imports": variables.modules,
    "encryption_keys": variables.encryption_keys,
    "start_keys": variables.start_keys,
    "snapshot_keys": variables.start_keys,
    "allow_private_networks": variables.networks,
    "lease_seconds": variables.seconds(0.5, 3600),
    "sweep_seconds": variables.seconds(0.1, 3600),
    "drain_seconds": variables.seconds(0, 3600),
    "hint_depth": variables.count(1, 10_000_000),
    "database_connections": variables.count(4, 1000),
    "retention_days": variables.days(0.01, 36_500),
    "deaf_seconds": variables.seconds(1, 86400),
    "audit_keys": variables.paths,
    "audit_retention_days": variables.days(0.01, 36_500),
    "log_level": variables.log_level,
    "log_format": variables.log_format,
    "openai_api_key": variables.text,
    "openai_base_url": variables.http_url,
    "anthropic_api_key": variables.text,
    # Postgres takes no value over 1 GB, and a statement carries it as escaped text.
    "max_output_bytes": variables.byte_count(1024, 256 * _MIB),
    "inline_bytes": variables.byte_count(0, 256 * _MIB),
    "step_timeout_seconds": variables.seconds(0.1, 7 * 86400),
    "web_keys": variables.long_keys,
    "public_url": variables.public_url,
    "notify_webhook_url": variables.secret_url,
    "notify_webhook_key": variables.long_key,
    "notify_slack_url": variables.secret_url,
    "notify_teams_url": variables.secret_url,
    "smtp_url": variables.smtp_url,
    "notify_attempts": variables.count(1, 1000),
    "default_tier": variables.tier,
    "limit_workers": variables.count(1, 10_000),
    "region": variables.region,
    "license_public_key": variables.text,
    "license_key": variables.text,
    "license_file": variables.path,
    "license_revoked": variables.identifiers,
    "license_unsigned": variables.flag,
    "health": variables.address,
    "traces": trace_variables.collector,
    "traces_ratio": trace_variables.fraction,
    "traces_hosts": trace_variables.hosts,
}
_DEFAULTS: dict[str, object] = {
    item.name: {} if item.name in {"start_keys", "snapshot_keys"} else item.default for item in fields(Settings)
}


def secret_in_file(name: str) -> str | None:
    """What the file holds that the environment variable ``name`` names, for a secret of another program; None if unset.

    Raises :class:`ConfigurationError` when it cannot be read or is empty.
    """
    path = os.environ.get(name, "").strip()
    return _in_file(name, path) if path else None


def _in_file(name: str, path: str, *, beside: str = "") -> str:
    """The text of the file that the variable ``name`` names, without the white space around it.

    ``beside`` is what the variable without ``_FILE`` has: of two values nobody could say which counts.
    """
    if beside:
        plain = name.removesuffix("_FILE")
        raise ConfigurationError(f"{plain} and {name} are both set: unset one of them")
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise ConfigurationError(f"{name}: {path} cannot be read ({why}): correct {name} or unset it") from None
    if not text:
        raise ConfigurationError(f"{name}: {path} is empty: write the value into it or unset {name}")
    return text


def _shown(name: str, value: object) -> str:
    """``value`` as a person may see it: secrets masked, nothing rendered as Python."""
    if value is None and name == "migration_url":
        return f"as {variable('database_url')}"
    if value is None:
        return "embedded" if name in {"database_url", "broker_url"} else "not set"
    if name == "encryption_keys" and isinstance(value, tuple):
        return ",".join(f"{key_id}:***" for key_id, _ in value) or "not set"
    if name in {"start_keys", "snapshot_keys"} and isinstance(value, Mapping):
        return ",".join(f"{tenant}=***" for tenant in value) or "not set"
    if name == "web_keys" and isinstance(value, tuple):
        return ",".join("***" for _ in value) or "not set"
    if name == "license_public_key":
        return "a key in PEM" if str(value).startswith("-----") else str(value)
    if name.endswith("_key"):
        return "***"
    if name == "health" and isinstance(value, tuple):
        return variables.address_text((value[0], value[1]))
    if isinstance(value, bool):
        return str(int(value))
    if name == "smtp_url" or (name.startswith("notify_") and name.endswith("_url")):
        return mask_path(str(value))
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "not set"
    if isinstance(value, float):
        return f"{value:g}"
    return mask_url(str(value))
