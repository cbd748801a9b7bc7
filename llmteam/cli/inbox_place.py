"""What the commands of the inbox share: the way to the requests, who speaks, and how a request is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmteam.cli.options import load_settings
from llmteam.cli.servers import installation

if TYPE_CHECKING:
    from llmteam.human.manager import HumanInteractionManager
    from llmteam.human.rulings import Case

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Open requests among which the beginning of an id is looked for.
_AMONG = 1000
#: Characters of an id that are enough to look for.
_SHORTEST = 4


def as_option(*, required: bool = True, help: str) -> Callable[[_Command], _Command]:  # noqa: A002  # click's word
    """``--as``: the name of the shell's user says nothing about who somebody is, so that it is never taken."""
    return click.option("--as", "person", required=required, metavar="USER", callback=_name, help=help)


def group_option(command: _Command) -> _Command:
    """``--group``"""
    return click.option(
        "--group", "groups", multiple=True, metavar="G", callback=_names, help="A group they are in; may be repeated."
    )(command)


def _name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from llmteam.human.checks import fault_of_name

    if value is not None and (fault := fault_of_name(value)):
        raise click.BadParameter(f"the name {fault}", context, parameter)
    return value


def _names(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for one in value:
        _name(context, parameter, one)
    return value


@contextmanager
def opened_inbox(tenant: str) -> Iterator[HumanInteractionManager]:
    """A tenant's requests in the installation that the settings name."""
    with installation(load_settings()) as place:
        from llmteam.human.fleet import connect

        manager = connect(place.settings, tenant_id=tenant)
        try:
            yield manager
        finally:
            manager.close()


def look_up(manager: HumanInteractionManager, tenant: str, name: str) -> Case:
    """The request of this id, or the only open one whose id begins so. Raises :class:`InteractionNotFoundError`."""
    from llmteam.human.exceptions import InteractionNotFoundError

    core = manager.store.core
    case = core.case(tenant, name)
    if case is None and len(name) >= _SHORTEST:
        opened = core.open_requests(tenant, limit=_AMONG)
        found = [one.request_id for one in opened if one.request_id.startswith(name)]
        if len(found) > 1 or len(opened) == _AMONG:
            raise click.UsageError(f"more than one request may begin with {name!r}: give the whole id")
        case = core.case(tenant, found[0]) if found else None
    if case is None:
        raise InteractionNotFoundError(name)
    return case
