"""``llmteam inbox serve|token``: the web inbox, and access to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from llmteam.cli.options import import_modules, imports_option, load_settings, tenant_option
from llmteam.cli.render import say, warn
from llmteam.cli.servers import Installation, installation
from llmteam.errors import ConfigurationError
from llmteam.ids import check_identifier, utc_now
from llmteam.settings import Settings, variable

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Where the inbox listens: nobody but this machine reaches it.
HOST, PORT = "127.0.0.1", 8585
_LOOPBACK = {HOST, "::1", "localhost"}


@click.command()
@click.option("--host", default=HOST, show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 takes a free one.")
@imports_option
def serve(host: str, port: int, imports: tuple[str, ...]) -> None:
    """Serve the inbox: pages for people and a JSON API, also of runs. Ctrl-C stops it when answers under way are done.

    Other machines should reach it through a proxy that speaks https; LLMTEAM_PUBLIC_URL is then its address.
    """
    serve_until_signal = _serving()
    given = load_settings(imports)
    import_modules(given)
    with installation(given) as place:
        settings = place.settings
        app = _application(place)
        secure = (settings.public_url or "").startswith("https:")
        if host not in _LOOPBACK and not secure:
            warn(f"tokens and answers travel unencrypted: put https before it, and set {variable('public_url')}")

        def ready(taken: int) -> None:
            say(f"ready: {settings.public_url or _address(host, taken)}/ (listens on {host} port {taken})")
            say("`llmteam inbox token --user NAME` lets somebody in; Ctrl-C stops")

        serve_until_signal(app, host, port, ready)


def _serving() -> Callable[[FastAPI, str, int, Callable[[int], None]], None]:
    """What serves, before any server is started for it. Raises :class:`ConfigurationError` without the extra."""
    try:
        from llmteam.web.serve import serve as serve_until_signal
    except ImportError as exc:
        raise ConfigurationError(f"the web inbox needs {exc.name}: pip install 'llmteam[web]'") from None
    return serve_until_signal


def _application(place: Installation) -> FastAPI:
    """The application over the servers of an installation."""
    from llmteam.canvas.fleet import connect as connect_runs
    from llmteam.human.fleet import connect
    from llmteam.web import Parts, create_app

    database = place.database("llmteam-check")
    try:
        database.check_login()
        if risk := database.owner_risk():
            say(f"warning: {risk}")
        database.check_schema()
    finally:
        database.close()
    settings = place.settings
    runs = connect_runs(settings, application_name="llmteam-web", pool_size=8)
    return create_app(Parts(connect(settings), settings.web_keys, settings.public_url or "", runs=runs))


@click.command()
@click.option("--user", required=True, metavar="U", help="Who they are: the name that requests are assigned to.")
@tenant_option
@click.option("--group", "groups", multiple=True, metavar="G", help="A group they are in; may be repeated.")
@click.option(
    "--hours",
    type=click.FloatRange(0, 24 * 366, min_open=True),
    default=12,
    show_default=True,
    metavar="N",
    help="For how long.",
)
def token(user: str, tenant: str, groups: tuple[str, ...], hours: float) -> None:
    """Let somebody into the inbox: write an access token, and tell where to sign in with it.

    Whoever has the token is that person until it ends; members of the group `operators` see all requests and runs
    of their tenant, may cancel them and start others. A token cannot be taken back, but for a new key in
    LLMTEAM_WEB_KEYS.
    """
    from llmteam.human.links import Access, LinkSigner

    access = Access(
        check_identifier("tenant", tenant),
        _name("--user", user),
        tuple(_name("--group", group) for group in groups),
        utc_now() + timedelta(hours=hours),
    )
    settings = load_settings()
    if settings.web_keys:
        made = LinkSigner(settings.web_keys).sign_access(access)
    else:
        with installation(settings) as place:
            made = LinkSigner(place.settings.web_keys).sign_access(access)
    click.echo(made)
    say(f"sign in at {_public_url(settings)}/sign-in?token={quote(made)}")


def _name(option: str, text: str) -> str:
    """What people and groups are called is up to whoever assigns requests to them."""
    from llmteam.human.checks import fault_of_name

    if fault := fault_of_name(text):
        raise click.UsageError(f"{option}: the name {fault}")
    return text


def _public_url(settings: Settings) -> str:
    return settings.public_url or _address(HOST, PORT)


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
