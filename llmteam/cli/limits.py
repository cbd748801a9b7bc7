"""``llmteam limits``: limits and circuits of all processes, as the shared server has them; and setting them by hand."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmteam.cli.limiters import limits_shown, limits_table
from llmteam.cli.options import import_modules, imports_option, json_option, load_settings
from llmteam.cli.render import print_json, say, table
from llmteam.cli.servers import Installation, installation
from llmteam.errors import ConfigurationError, InfrastructureError
from llmteam.ids import check_identifier

if TYPE_CHECKING:
    from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
    from llmteam.ratelimit.circuits.rules import Circuit
    from llmteam.ratelimit.decisions import LimitKey
    from llmteam.ratelimit.limits.redis import RedisLimitBackend
    from llmteam.ratelimit.models import CircuitState
    from llmteam.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
def limits() -> None:
    """Limits and circuits of what workers call: list, show, open, reset."""


def _circuit_options(command: _Command) -> _Command:
    """Options that say which circuit, and who sets it."""
    for option in (
        click.option("--tenant", default="default", show_default=True, metavar="T", help="Whose circuit."),
        click.option("--all-tenants", is_flag=True, help="The circuit that all tenants share, instead of one's."),
        click.option("--part", default="", metavar="PART", help="A part of it, by whatever key its calls have."),
        click.option("--by", metavar="NAME", default=getpass.getuser, help="Who does it, for the audit trail."),
    ):
        command = option(command)
    return command


@limits.command(name="list")
@imports_option
@json_option
def list_limits(imports: tuple[str, ...], as_json: bool) -> None:
    """List what limits have room for, then the circuits of the last day, those that are not closed first.

    Limits are known by their settings when the modules are imported that register them.
    """
    _show(None, imports, as_json)


@limits.command()
@click.argument("name")
@imports_option
@json_option
def show(name: str, imports: tuple[str, ...], as_json: bool) -> None:
    """Show the limits and circuits of NAME, of all tenants."""
    _show(name, imports, as_json)


@limits.command(name="open")
@click.argument("name")
@click.option("--seconds", type=click.FloatRange(0, 30 * 24 * 3600), default=30.0, show_default=True, help="How long.")
@_circuit_options
@json_option
def open_circuit(name: str, seconds: float, as_json: bool, **which: Any) -> None:
    """Refuse all calls of NAME for some time; then trials decide, as after failures."""
    from llmteam.ratelimit.models import CircuitState

    _set(name, CircuitState.OPEN, as_json, seconds=seconds, **which)


@limits.command()
@click.argument("name")
@_circuit_options
@json_option
def reset(name: str, as_json: bool, **which: Any) -> None:
    """Close the circuit of NAME and forget its failures; its limits begin to count anew."""
    from llmteam.ratelimit.models import CircuitState

    _set(name, CircuitState.CLOSED, as_json, forget=True, **which)


def _show(name: str | None, imports: tuple[str, ...], as_json: bool) -> None:
    settings = load_settings(imports)
    import_modules(settings)
    with _shared(settings) as (_, limiters, backend):
        counted = list(limits_shown(limiters, name))
        circuits = [_described(*one) for one in backend.circuits() if name in {None, one[0].resource}]
    circuits.sort(key=lambda one: (one["state"] == "closed", one["name"], one["tenant_id"], one["part"]))
    if as_json:
        print_json({"limits": counted, "circuits": circuits})
        return
    limits_table(counted)
    rows = [
        [
            one["name"],
            one["tenant_id"] or "(all)",
            one["part"],
            one["state"],
            one["since"],
            None if one["retry_after"] is None else timedelta(seconds=one["retry_after"]),
            one["trials"],
            f"{one['failures']} of {one['outcomes']}",
        ]
        for one in circuits
    ]
    headings = ["CIRCUIT", "TENANT", "PART", "STATE", "SINCE", "TRIED IN", "TRIALS", "FAILED"]
    table(headings, rows, "no circuit was used in the last day")


def _described(key: LimitKey, circuit: Circuit, now: int) -> dict[str, Any]:
    is_open = circuit.state.value == "open"
    return {
        "name": key.resource,
        "tenant_id": key.tenant_id,
        "part": key.part,
        "state": circuit.state.value,
        "since": datetime.fromtimestamp(circuit.since / 1000, UTC) if circuit.generation else None,
        "retry_after": max(circuit.until - now, 0) / 1000 if is_open else None,
        "trials": sum(end > now for _, end in circuit.trials),
        "successes": circuit.successes,
        "outcomes": len(circuit.history),
        "failures": sum(failed for _, failed in circuit.history),
    }


def _set(
    name: str,
    state: CircuitState,
    as_json: bool,
    *,
    tenant: str,
    all_tenants: bool,
    part: str,
    by: str,
    seconds: float = 0.0,
    forget: bool = False,
) -> None:
    from llmteam.ratelimit.decisions import LimitKey
    from llmteam.ratelimit.models import CircuitBreakerConfig

    check_identifier("tenant_id", tenant)
    key = LimitKey(name, "" if all_tenants else tenant, part)
    config = CircuitBreakerConfig(open_timeout=timedelta(seconds=seconds), open_jitter=0)
    with _shared(load_settings()) as (place, limiters, backend):
        before = backend.look(key, config).state
        _check_shared(backend, name)
        counted = forget and any(used == key for used, _ in limiters.used())
        # First, so that no change is without its record.
        _audit(place, tenant, key, "circuit", state.value, {"before": before.value}, by)
        if counted:
            _audit(place, tenant, key, "limit", "reset", {}, by)
        backend.force(key, config, state)
        _check_shared(backend, name)
        forgotten = counted and limiters.forget(key)
    if as_json:
        told = {"name": name, "tenant_id": key.tenant_id, "part": part}
        print_json({**told, "before": before.value, "state": state.value, "counts_anew": forgotten})
    else:
        also = ", and its limit counts anew" if forgotten else ""
        say(f"the circuit of {name} was {before.value} and is {state.value}{also}")


def _check_shared(backend: RedisCircuitBackend, name: str) -> None:
    if not backend.backend_state().shared:
        raise InfrastructureError(
            f"the circuit of '{name}' is as it was: the Redis or Valkey that LLMTEAM_REDIS_URL names does not answer"
        )


def _audit(
    place: Installation, tenant: str, key: LimitKey, kind: str, act: str, facts: dict[str, str], actor_id: str
) -> None:
    """Whoever shares it, the act is recorded with the tenant that ``--tenant`` names."""
    from llmteam.audit import AuditEventType, AuditTrail, PostgresAuditStore

    database = place.database()
    try:
        AuditTrail(PostgresAuditStore(database), tenant_id=tenant).log_sync(
            AuditEventType.CONFIG_CHANGED,
            actor_type="operator",
            actor_id=actor_id,
            action=f"{kind}.{act}",
            resource_type=kind,
            resource_id=key.resource,
            metadata={**facts, "part": key.part, "all_tenants": not key.tenant_id},
        )
    finally:
        database.close()


@contextmanager
def _shared(settings: Settings) -> Iterator[tuple[Installation, RedisLimitBackend, RedisCircuitBackend]]:
    from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
    from llmteam.ratelimit.limits.redis import RedisLimitBackend

    with installation(settings) as place:
        if place.settings.redis_url is None:
            raise ConfigurationError("limits and circuits are shared through Redis or Valkey: set LLMTEAM_REDIS_URL")
        limiters, circuits = RedisLimitBackend(place.settings.redis_url), RedisCircuitBackend(place.settings.redis_url)
        with closing(limiters), closing(circuits):
            yield place, limiters, circuits
