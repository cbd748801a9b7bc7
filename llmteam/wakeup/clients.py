"""Clients of Redis or Valkey by URL: one server, or the primary that Sentinels name at the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam import variables
from llmteam.errors import ConfigurationError

if TYPE_CHECKING:
    from redis import ConnectionPool, Redis

#: Seconds in which a Sentinel answers; then the next one is asked.
_SENTINEL_SECONDS = 1.0


def redis_url(url: str) -> str:
    """``url`` as redis-py reads it, or that of Sentinels; Celery writes unix sockets in its own way.

    Raises :class:`ConfigurationError` for the address of anything else, RabbitMQ for instance.
    """
    found = variables.redis_of(url)
    if found is None:
        raise ConfigurationError(
            f"{variables.mask_url(url)} is no Redis: give a URL like redis://host:6379/0, unix:///path?db=0 or "
            "sentinel://host:26379;sentinel://other:26379/0?master_name=NAME (LLMTEAM_REDIS_URL)"
        )
    return found


def client_of(url: str, *, most: int | None = None, wait: float = 0.0, **options: Any) -> Redis:
    """A client that connects on first use.

    ``most`` connections at once; who needs another waits up to ``wait`` seconds for one. ``options`` are those of
    redis-py's connections. With Sentinels each new connection asks them for the primary, and one that turns out to be
    that of a former primary is given up. Raises :class:`ConfigurationError` like :func:`redis_url`.
    """
    from redis import Redis

    return Redis(connection_pool=_pool(redis_url(url), most, wait, options))


def _pool(url: str, most: int | None, wait: float, options: dict[str, Any]) -> ConnectionPool:
    from redis import BlockingConnectionPool, ConnectionPool
    from redis.sentinel import Sentinel, SentinelConnectionPool

    class BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
        """Both of redis-py's: at most so many connections, each to the primary."""

    limits: dict[str, Any] = {} if most is None else {"max_connections": most, "timeout": wait}
    found = variables.sentinels_of(url)
    if found is None:
        made = ConnectionPool if most is None else BlockingConnectionPool
        pool: ConnectionPool = made.from_url(url, **limits, **options)
        return pool
    timeouts = {"socket_timeout": _SENTINEL_SECONDS, "socket_connect_timeout": _SENTINEL_SECONDS}
    sentinel = Sentinel(found.addresses, sentinel_kwargs=timeouts)  # type: ignore[no-untyped-call]
    primary = {"db": found.database, "username": found.username, "password": found.password}
    kind = SentinelConnectionPool if most is None else BlockingSentinelPool
    shared: ConnectionPool = kind(found.name, sentinel, **limits, **primary, **options)  # type: ignore[no-untyped-call]
    return shared
