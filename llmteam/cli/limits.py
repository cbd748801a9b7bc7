"""``llmteam limits``: the circuits of all processes, as the shared server has them; and setting them by hand."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmteam.cli.options import json_option, load_settings
from llmteam.cli.render import print_json, say, table
from llmteam.cli.servers import Installation, installation
from llmteam.errors import ConfigurationError, InfrastructureError
from llmteam.ids import check_identifier

if TYPE_CHECKING:
    from llmteam.ratelimit.circuits.redis import RedisCircuitBackend
    from llmteam.ratelimit.circuits.rules import Circuit
    from llmteam.ratelimit.decisions import LimitKey
    from llmteam.ratelimit.models import CircuitState

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
def limits() -> None:
    """Circuits of what workers call: list, show, open, reset."""


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
@json_option
def list_circuits(as_json: bool) -> None:
    """List the circuits that were used in the last day, those that are not closed first."""
    _show(None, as_json)


@limits.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the circuits of NAME, of all tenants."""
    _show(name, as_json)


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
    """Close the circuit of NAME and forget its failures."""
    from llmteam.ratelimit.models import CircuitState

    _set(name, CircuitState.CLOSED, as_json, **which)


def _show(name: str | None, as_json: bool) -> None:
    with _circuits() as (_, backend):
        found = [_described(*one) for one in backend.circuits() if name in {None, one[0].resource}]
    found.sort(key=lambda one: (one["state"] == "closed", one["name"], one["tenant_id"], one["part"]))
    if as_json:
        print_json(found)
        return
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
        for one in found
    ]
    headings = ["NAME", "TENANT", "PART", "STATE", "SINCE", "TRIED IN", "TRIALS", "FAILED"]
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
) -> None:
    from llmteam.ratelimit.decisions import LimitKey
    from llmteam.ratelimit.models import CircuitBreakerConfig

    check_identifier("tenant_id", tenant)
    key = LimitKey(name, "" if all_tenants else tenant, part)
    config = CircuitBreakerConfig(open_timeout=timedelta(seconds=seconds), open_jitter=0)
    with _circuits() as (place, backend):
        before = backend.look(key, config).state
        _check_shared(backend, name)
        # First, so that no change is without its record.
        _audit(place, tenant, key, before, state, by)
        backend.force(key, config, state)
        _check_shared(backend, name)
    if as_json:
        told = {"name": name, "tenant_id": key.tenant_id, "part": part}
        print_json({**told, "before": before.value, "state": state.value})
    else:
        say(f"the circuit of {name} was {before.value} and is {state.value}")


def _check_shared(backend: RedisCircuitBackend, name: str) -> None:
    if not backend.backend_state().shared:
        raise InfrastructureError(
            f"the circuit of '{name}' is as it was: the Redis or Valkey that LLMTEAM_REDIS_URL names does not answer"
        )


def _audit(
    place: Installation, tenant: str, key: LimitKey, before: CircuitState, after: CircuitState, actor_id: str
) -> None:
    """Whoever shares it, the act is recorded with the tenant that ``--tenant`` names."""
    from llmteam.audit import AuditEventType, AuditTrail, PostgresAuditStore

    database = place.database()
    try:
        AuditTrail(PostgresAuditStore(database), tenant_id=tenant).log_sync(
            AuditEventType.CONFIG_CHANGED,
            actor_type="operator",
            actor_id=actor_id,
            action=f"circuit.{after.value}",
            resource_type="circuit",
            resource_id=key.resource,
            metadata={"before": before.value, "part": key.part, "all_tenants": not key.tenant_id},
        )
    finally:
        database.close()


@contextmanager
def _circuits() -> Iterator[tuple[Installation, RedisCircuitBackend]]:
    from llmteam.ratelimit.circuits.redis import RedisCircuitBackend

    with installation(load_settings()) as place:
        if place.settings.redis_url is None:
            raise ConfigurationError("circuits are shared through Redis or Valkey: set LLMTEAM_REDIS_URL")
        backend = RedisCircuitBackend(place.settings.redis_url)
        try:
            yield place, backend
        finally:
            backend.close()
