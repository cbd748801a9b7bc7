"""How the text of each kind of variable is read, and how its value may be shown. Pure; :mod:`llmteam.settings` uses it.

A reader takes the variable's name, for its error, and its text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.ids import InvalidIdentifierError, check_identifier
from llmteam.regions import check_region

#: Variables that keep the name which their own tools gave them.
_FOREIGN_NAMES = {"openai_api_key", "openai_base_url", "anthropic_api_key"}
_POSTGRES_SCHEMES = {"postgresql", "postgres", "postgresql+psycopg2"}
_REDIS_SCHEMES = {"redis", "rediss"}
_SENTINEL_PORT = 26379
_SENTINEL_SHAPE = "sentinel://host:26379;sentinel://other:26379/0?master_name=NAME"
_USERINFO = re.compile(r"(://[^:/?#@]*|^[^:/?#@]*):(?!//).*@", re.DOTALL)
_SECRET_QUERY = re.compile(r"((?:^|[?&\s])[^=&\s]*(?:password|secret|token)=)[^&\s]*", re.IGNORECASE)
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_PRIVATE_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:/\d{1,3})?\]|[A-Za-z0-9_*.-]+(?:/\d{1,2})?):(\d{1,5})")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):(\d{1,5})")
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Characters of a key that signs: as many as the bytes of its digest (RFC 2104, section 3).
_KEY_LENGTH = 32
#: As in :class:`llmteam.tenancy.TenantTier`, which stands above this module.
_TIERS = ("free", "starter", "professional", "enterprise")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def variable(name: str) -> str:
    """The environment variable of the setting ``name``."""
    return name.upper() if name in _FOREIGN_NAMES else f"LLMTEAM_{name.upper()}"


def file_variable(name: str) -> str:
    """The environment variable that names a file with the setting ``name``."""
    return f"{variable(name)}_FILE"


def mask_url(url: str) -> str:
    """``url`` with passwords replaced by ``***``; rather hides too much than too little of a malformed one."""
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub(r"\1:***@", url))


def mask_path(url: str) -> str:
    """Scheme, host and port of ``url``: the rest of a chat's webhook is what lets somebody post."""
    parts = _split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/***"


def bad(name: str, shape: str, shown: object, fix: str = "") -> ConfigurationError:
    """The error for a value that does not have this ``shape``; ``shown`` has to be fit to be seen."""
    hint = fix or f"correct {name} or unset it"
    return ConfigurationError(f"{name} is {shown!r}, but must be {shape}: {hint}")


def _bad_secret(name: str, shape: str, which: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {which} is not {shape}: correct {name} or unset it")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def postgres_url(name: str, text: str) -> str:
    """The address of a Postgres."""
    if _split(text).scheme not in _POSTGRES_SCHEMES:
        raise bad(name, "a Postgres URL like postgresql://user:password@host:5432/database", mask_url(text))
    return text


def broker_url(name: str, text: str) -> str:
    """The address of a broker, as Celery writes it."""
    scheme = _split(text).scheme
    if scheme == "unix":
        raise bad(
            name, "a Celery broker URL", mask_url(text), "Celery writes a socket redis+socket:///path?virtual_host=0"
        )
    if not scheme or "://" not in text:
        raise bad(name, "a URL like redis://host:6379/0", mask_url(text))
    if scheme == "sentinel" and sentinels_of(text) is None:
        raise bad(name, _SENTINEL_SHAPE, mask_url(text), "name the primary that the Sentinels watch")
    return text


def redis_url(name: str, text: str) -> str:
    """The address of a Redis, as redis-py writes it."""
    found = redis_of(text)
    if found is None:
        raise bad(name, f"a URL like redis://host:6379/0, unix:///path?db=0 or {_SENTINEL_SHAPE}", mask_url(text))
    return found


def redis_of(broker_url: str) -> str | None:
    """What redis-py calls the server that Celery calls ``broker_url``, or None when that is no Redis.

    Sentinels stay as they are written here; :func:`sentinels_of` reads them.
    """
    parts = _split(broker_url)
    if parts.scheme in {*_REDIS_SCHEMES, "unix"} or sentinels_of(broker_url) is not None:
        return broker_url
    if parts.scheme != "redis+socket":
        return None
    number = parse_qs(parts.query).get("virtual_host", ["0"])[0].strip("/") or "0"
    credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return f"unix://{credentials}{parts.path}?db={number}"


def backend_of(broker_url: str) -> str | None:
    """The result backend that follows from the broker, or None."""
    return broker_url if redis_of(broker_url) is not None else None


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Servers that know which Redis is the primary at the moment, the name that they have for it, and its log-in."""

    addresses: tuple[tuple[str, int], ...]
    name: str
    database: int
    username: str | None
    password: str | None


def sentinels_of(url: str) -> Sentinels | None:
    """Read ``sentinel://user:password@host:26379;sentinel://other:26379/0?master_name=NAME``; None for another URL.

    User, password and database are the primary's, in whichever part they stand.
    """
    parts = [_split(one.strip()) for one in url.split(";")]
    queries = [parse_qs(part.query) for part in parts]
    names = [name for query in queries for name in query.get("master_name", ())]
    paths = [path for part in parts if (path := part.path.strip("/"))]
    known = next((part for part in parts if part.username or part.password), parts[0])
    try:
        addresses = tuple((part.hostname or "", part.port or _SENTINEL_PORT) for part in parts)
    except ValueError:
        return None
    whole = all(part.scheme == "sentinel" and host for part, (host, _) in zip(parts, addresses, strict=True))
    if not whole or len(names) != 1 or len(paths) > 1 or not all(path.isdecimal() for path in paths):
        return None
    user, password = (None if text is None else unquote(text) for text in (known.username, known.password))
    return Sentinels(addresses, names[0], int(paths[0]) if paths else 0, user or None, password)


def celery_url(url: str) -> tuple[str, dict[str, str]]:
    """A broker or result backend as Celery reads it, and its transport options: it takes the primary's name apart."""
    found = sentinels_of(url)
    if found is None:
        return url, {}
    login = "" if found.password is None else f"{quote(found.username or '', '')}:{quote(found.password, '')}@"
    places = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found.addresses)
    return ";".join(f"sentinel://{login}{place}/{found.database}" for place in places), {"master_name": found.name}


def http_url(name: str, text: str) -> str:
    """An address on the web."""
    parts = _split(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise bad(name, "an http or https URL", mask_url(text))
    return text


def public_url(name: str, text: str) -> str:
    """Where people reach something, to which paths are added."""
    parts = _split(http_url(name, text))
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise bad(name, "a URL without user, query and fragment, like https://inbox.example.com", mask_url(text))
    return text.rstrip("/")


def secret_url(name: str, text: str) -> str:
    """An address on the web that is never shown, since it is a secret itself."""
    if _split(text).scheme not in {"http", "https"} or not _split(text).hostname:
        raise _bad_secret(name, "an http or https URL", "its value")
    return text


def smtp_url(name: str, text: str) -> str:
    """A mail server with its credentials and the sender of what is sent."""
    parts = _split(text)
    sender = parse_qs(parts.query).get("from", [""])[0]
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname or "@" not in sender.strip("@"):
        shape = "a URL like smtp://user:password@host:587?from=inbox@example.com&starttls=1"
        raise _bad_secret(name, shape, "its value")
    return text


def long_key(name: str, text: str) -> bytes:
    """A key that signs."""
    return _long(name, "its value", text)


def long_keys(name: str, text: str) -> tuple[bytes, ...]:
    """Keys that sign, separated by commas."""
    return tuple(_long(name, f"entry {index}", part) for index, part in enumerate(_parts(text), start=1))


def _long(name: str, which: str, key: str) -> bytes:
    if len(key) < _KEY_LENGTH:
        raise _bad_secret(name, f"at least {_KEY_LENGTH} characters long", which)
    return key.encode("utf-8", "surrogateescape")


def text(name: str, text: str) -> str:
    """Anything."""
    return text


def path(name: str, text: str) -> Path:
    """A folder; ``~`` is the home of the user."""
    return Path(text).expanduser()


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


def address(name: str, text: str) -> tuple[str, int]:
    """Where to listen: ``host:port``, an IPv6 address in brackets; port 0 takes a free one."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise bad(name, "host:port, like 0.0.0.0:9808 or [::]:9808", text)
    return match[1].strip("[]"), int(match[2])


def address_text(address: tuple[str, int]) -> str:
    """What :func:`address` reads."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def paths(name: str, text: str) -> tuple[Path, ...]:
    """Files, separated by commas; ``~`` is the home of the user."""
    return tuple(Path(part).expanduser() for part in _parts(text))


def modules(name: str, text: str) -> tuple[str, ...]:
    """Names of modules."""
    for part in _parts(text):
        if _MODULE.fullmatch(part) is None:
            raise bad(name, "module names separated by commas, like myapp.steps,myapp.tools", part)
    return _parts(text)


def networks(name: str, text: str) -> tuple[str, ...]:
    """Endpoints: ``host:port`` or ``CIDR:port``."""
    for part in _parts(text):
        match = _PRIVATE_HOST.fullmatch(part)
        if match is None or not 1 <= int(match[1]) <= 65535:
            raise bad(name, "host:port or CIDR:port, separated by commas, like 10.0.0.0/8:443,[fd00::/8]:443", part)
    return _parts(text)


def _decoded(name: str, which: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, altchars=b"-_" if "-" in text or "_" in text else None, validate=True)
    except (binascii.Error, ValueError):
        raise _bad_secret(name, "base64", which) from None


def encryption_keys(name: str, text: str) -> tuple[tuple[str, bytes], ...]:
    """(key id, 32 bytes) in their order."""
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


def encryption_keys_text(keys: Iterable[tuple[str, bytes]]) -> str:
    """What :func:`encryption_keys` reads."""
    return ",".join(f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in keys)


def start_keys(name: str, text: str) -> dict[str, bytes]:
    """A key for each tenant."""
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


def seconds(least: float, most: float) -> Callable[[str, str], float]:
    """A duration in seconds between two bounds."""
    return _number(least, most, "seconds")


def _number(least: float, most: float, unit: str) -> Callable[[str, str], float]:
    def parse(name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise bad(name, f"a number of {unit} from {least:g} to {most:g}", text)
        return value

    return parse


def days(least: float, most: float) -> Callable[[str, str], float]:
    """A duration in days between two bounds."""
    return _number(least, most, "days")


def count(least: int, most: int) -> Callable[[str, str], int]:
    """A whole number between two bounds."""
    return _whole(least, most, "")


def byte_count(least: int, most: int) -> Callable[[str, str], int]:
    """A size in bytes between two bounds."""
    return _whole(least, most, " of bytes")


def _whole(least: int, most: int, unit: str) -> Callable[[str, str], int]:
    def parse(name: str, text: str) -> int:
        value = int(text) if re.fullmatch(r"[0-9]{1,12}", text) else -1
        if not least <= value <= most:
            raise bad(name, f"a whole number{unit} from {least} to {most}", text)
        return value

    return parse


def region(name: str, text: str) -> str:
    """Where a process runs steps."""
    try:
        return check_region(name, text)
    except InvalidIdentifierError as exc:
        raise bad(name, exc.rule, text) from None


def tier(name: str, text: str) -> str:
    """The tier of a tenant."""
    if text.lower() not in _TIERS:
        raise bad(name, f"one of {', '.join(_TIERS)}", text)
    return text.lower()


def flag(name: str, text: str) -> bool:
    """Yes or no."""
    if text not in {"0", "1"}:
        raise bad(name, "0 or 1", text)
    return text == "1"


def identifiers(name: str, text: str) -> tuple[str, ...]:
    """Ids, separated by commas."""
    for part in _parts(text):
        try:
            check_identifier("id", part)
        except LLMTeamError:
            raise bad(name, "ids separated by commas", part) from None
    return _parts(text)


def log_level(name: str, text: str) -> str:
    """A level of logging, in any case."""
    if text.upper() not in _LOG_LEVELS:
        raise bad(name, "one of " + ", ".join(_LOG_LEVELS), text)
    return text.upper()


def log_format(name: str, text: str) -> str:
    """How a line of the log is written, in any case."""
    if text.lower() not in {"text", "json"}:
        raise bad(name, "text or json", text)
    return text.lower()
