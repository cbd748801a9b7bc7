"""A line for each method of where limits and circuits are counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
from llmteam.ratelimit.decisions import Ask, LimitKey, Outcome
from llmteam.ratelimit.limits.memory import MemoryLimitBackend
from llmteam.ratelimit.limits.redis import RedisLimitBackend
from llmteam.ratelimit.models import CircuitBreakerConfig, CircuitState, RateLimitConfig
from tests.security.walking import Group, Line, Scene, operator, plain

LIMITED = RateLimitConfig(requests_per_hour=100, max_concurrent=1)
BREAKER = CircuitBreakerConfig(failure_threshold=2)
SERVER = "says whether the server answers"


def _key(tenant: str) -> LimitKey:
    return LimitKey("api", tenant)


def _asks(tenant: str) -> list[Ask]:
    return [Ask(_key(tenant), LIMITED)]


def _seed_limits(scene: Scene) -> None:
    """One call of the owner is under way, and one waits."""
    held = scene.store.ask(_asks(scene.owner), "first", queue=True)
    scene.store.ask(_asks(scene.owner), "second", queue=True)
    scene.things = SimpleNamespace(permit=held.permit, store=scene.store)


LIMITS = Group(
    stores={
        RedisLimitBackend: lambda s: RedisLimitBackend(s.valkey),
        MemoryLimitBackend: lambda s: MemoryLimitBackend(),
    },
    seed=_seed_limits,
    look=lambda s: [(one.in_flight, one.waiting) for one in s.things.store.look(_asks(s.owner))],
    lines={
        "ask": Line(lambda s: s.store.ask(_asks(s.me), "third", queue=True).admitted),
        "look": Line(lambda s: s.store.look(_asks(s.me))),
        "release": Line(lambda s: s.store.release(_asks(s.me), s.things.permit)),
        "renew": Line(lambda s: s.store.renew(_asks(s.me), s.things.permit)),
        "withdraw": Line(lambda s: s.store.withdraw(_asks(s.me), "second")),
    },
    also={
        RedisLimitBackend: {
            "backend_state": plain(lambda s: s.store.backend_state(), SERVER),
            "check": plain(lambda s: s.store.check(), SERVER),
            "used": operator(lambda s: s.store.used(), "lists limits for whoever runs the installation"),
            "forget": Line(lambda s: s.store.forget(_key(s.me))),
            "close": plain(lambda s: s.store.close(), "lets go of connections"),
        }
    },
)


def _seed_circuits(scene: Scene) -> None:
    """The owner's calls have failed: its circuit is open."""
    for _ in range(2):
        permit = scene.store.allow(_key(scene.owner), BREAKER, "caller")
        scene.store.record(_key(scene.owner), BREAKER, permit, Outcome.FAILURE)
    scene.things = SimpleNamespace(permit=permit, store=scene.store)


def _look(scene: Scene) -> Any:
    found = scene.things.store.look(_key(scene.owner), BREAKER)
    return found.state, found.generation


CIRCUITS = Group(
    stores={
        RedisCircuitBackend: lambda s: RedisCircuitBackend(s.valkey),
        MemoryCircuitBackend: lambda s: MemoryCircuitBackend(),
    },
    seed=_seed_circuits,
    look=_look,
    lines={
        "allow": Line(lambda s: s.store.allow(_key(s.me), BREAKER, "caller").admitted),
        "look": Line(lambda s: s.store.look(_key(s.me), BREAKER).state),
        "record": Line(lambda s: s.store.record(_key(s.me), BREAKER, s.things.permit, Outcome.FAILURE)),
        "force": Line(lambda s: s.store.force(_key(s.me), BREAKER, CircuitState.CLOSED)),
    },
    also={
        RedisCircuitBackend: {
            "backend_state": plain(lambda s: s.store.backend_state(), SERVER),
            "check": plain(lambda s: s.store.check(), SERVER),
            "circuits": operator(
                lambda s: list(s.store.circuits()), "lists circuits for whoever runs the installation"
            ),
            "name_of": plain(lambda s: s.store.name_of(_key(s.me)), "a name is made of what it is given"),
            "close": plain(lambda s: s.store.close(), "lets go of connections"),
        }
    },
)
