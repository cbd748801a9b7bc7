"""What ``llmteam limits`` shows of limits: how many calls they have room for, of each tenant and of all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from llmteam.cli.render import table
from llmteam.errors import InfrastructureError

if TYPE_CHECKING:
    from llmteam.ratelimit.decisions import LimitKey, LimitView
    from llmteam.ratelimit.limits.redis import RedisLimitBackend
    from llmteam.ratelimit.models import RateLimitConfig
    from llmteam.ratelimit.registry import Limit


def limits_shown(backend: RedisLimitBackend, name: str | None) -> Iterator[dict[str, Any]]:
    """The limits in use, or those of ``name``, then those that are registered here and were not used.

    ``tenant_id`` is empty for a limit of all tenants, None for one that each tenant has and none used. What is not
    registered here with the settings under which it is used has no figures. Raises :class:`InfrastructureError`.
    """
    used = [(key, digest) for key, digest in backend.used() if name in {None, key.resource}]
    for key, digest in used:
        yield _described(key.resource, key.tenant_id, key.part, _view(backend, key, digest))
    yield from _unused(name, {(key.resource, digest) for key, digest in used})


def _view(backend: RedisLimitBackend, key: LimitKey, digest: str) -> LimitView | None:
    from llmteam.ratelimit.decisions import Ask
    from llmteam.ratelimit.limits.rules import rates_of
    from llmteam.ratelimit.registry import LimitRegistry

    known = LimitRegistry.get_instance().find(key.resource)
    asks = [Ask(key, config) for config in _configs(known) if rates_of(config).digest == digest]
    views = backend.look(asks[:1]) if asks else []
    if not (state := backend.backend_state()).shared:
        raise InfrastructureError(f"limits cannot be reached: {state.place} does not answer ({state.error})")
    return views[0] if views else None


def _unused(name: str | None, used: Set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """What is registered here, as it is when nothing was counted."""
    from llmteam.ratelimit.decisions import Ask, LimitKey
    from llmteam.ratelimit.limits.memory import MemoryLimitBackend
    from llmteam.ratelimit.limits.rules import rates_of
    from llmteam.ratelimit.registry import LimitRegistry

    registry = LimitRegistry.get_instance()
    for known in registry.names() if name is None else [name]:
        limit = registry.find(known)
        for config in _configs(limit):
            if (known, rates_of(config).digest) not in used:
                tenant_id = "" if limit is not None and config is limit.total else None
                (view,) = MemoryLimitBackend().look([Ask(LimitKey(known), config)])
                yield _described(known, tenant_id, "", view)


def _configs(limit: Limit | None) -> list[RateLimitConfig]:
    return [] if limit is None else [config for config in (limit.rate, limit.total) if config is not None]


def _described(name: str, tenant_id: str | None, part: str, view: LimitView | None) -> dict[str, Any]:
    place = {"name": name, "tenant_id": tenant_id, "part": part, "known": view is not None}
    if view is None:
        return {**place, **dict.fromkeys(("tokens", "room", "in_flight", "waiting", "retry_after", "limited_by"))}
    return {
        **place,
        "tokens": view.tokens,
        "room": dict(view.room),
        "in_flight": view.in_flight,
        "waiting": view.waiting,
        "retry_after": None if view.retry_after == math.inf else view.retry_after,
        "limited_by": view.limited_by,
    }


def limits_table(found: Iterable[Mapping[str, Any]]) -> None:
    """Show what :func:`limits_shown` found."""
    headings = ["LIMIT", "TENANT", "PART", "ROOM", "BURST", "IN FLIGHT", "WAITING", "NEXT IN", "FOR"]
    table(headings, [_row(one) for one in found], "no limit is registered here or in use")


def _row(one: Mapping[str, Any]) -> list[Any]:
    tenant = "(each)" if one["tenant_id"] is None else one["tenant_id"] or "(all)"
    if not one["known"]:
        return [one["name"], tenant, one["part"], "(not registered here: --import its module)", *[None] * 5]
    wait = one["retry_after"]
    return [
        one["name"],
        tenant,
        one["part"],
        ", ".join(f"{left} a {window}" for window, left in one["room"].items()),
        math.floor(one["tokens"]),
        one["in_flight"],
        one["waiting"],
        timedelta(seconds=wait) if wait else None,
        one["limited_by"] or None,
    ]
