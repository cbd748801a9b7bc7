"""Options that several commands have, and what comes before each of them: settings and users' modules."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from llmteam.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """``--json``"""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")(command)


def tenant_option(command: _Command) -> _Command:
    """``--tenant``"""
    return click.option("--tenant", default="default", show_default=True, metavar="T", help="Whose runs and segments.")(
        command
    )


def by_option(command: _Command) -> _Command:
    """``--by``"""
    return click.option(
        "--by", metavar="NAME", default=getpass.getuser, help="Who does it, for the audit trail; by default you."
    )(command)


def imports_option(command: _Command) -> _Command:
    """``--import``"""
    return click.option(
        "--import",
        "imports",
        multiple=True,
        metavar="MODULE",
        help="Import a module that registers step types, handlers or resources; may be repeated. "
        "Adds to LLMTEAM_IMPORTS.",
    )(command)


def load_settings(imports: Sequence[str] = ()) -> Settings:
    """The settings, with the home made absolute and the modules of ``--import`` added.

    Raises :class:`ConfigurationError`.
    """
    settings = Settings.load()
    both = tuple(dict.fromkeys((*settings.imports, *imports)))
    return replace(settings, imports=both, home=settings.home.expanduser().absolute())


def import_modules(settings: Settings) -> None:
    """Have this process know the step types of users' modules. Raises :class:`ConfigurationError`."""
    if not settings.imports:
        return
    if (here := str(Path.cwd())) not in sys.path:
        # Last, so that no file there hides a library.
        sys.path.append(here)
    from llmteam.tasks.worker import import_user_modules

    import_user_modules(settings)
