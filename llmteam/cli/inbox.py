"""``llmteam inbox``: requests to people."""

from __future__ import annotations

import click

from llmteam.cli.inbox_web import serve, token


@click.group()
def inbox() -> None:
    """Requests to people: the web inbox, and access to it."""


for _command in (serve, token):
    inbox.add_command(_command)
