"""What libpq is told, from the URL and from our defaults."""

from __future__ import annotations

import pytest

from llmteam.db import Database
from llmteam.db.engine import connect_args, parse_url
from llmteam.errors import ConfigurationError
from llmteam.settings import Settings

KEEPALIVES = ("idle", "interval", "count")


def arguments(url: str) -> dict[str, object]:
    return connect_args(parse_url(url), "llmteam", 30.0, 0.5, 60.0)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_every_spelling_of_the_scheme_means_psycopg2(scheme: str) -> None:
    assert parse_url(f"{scheme}://db/app").drivername == "postgresql+psycopg2"


@pytest.mark.parametrize(
    "url", ["", "db/app", "mysql://db/app", "postgresql+asyncpg://db/app", "postgresql://h:port/db"]
)
def test_another_driver_or_no_url_is_refused_by_the_name_of_the_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match="LLMTEAM_DATABASE_URL"):
        Database(url)


def test_session_settings_travel_in_the_connect_options() -> None:
    options = str(arguments("postgresql://db/app")["options"])

    assert "-c statement_timeout=30000" in options
    assert "-c lock_timeout=500" in options
    assert "-c idle_in_transaction_session_timeout=60000" in options
    assert "-c timezone=UTC" in options


def test_both_sides_notice_within_a_lease_that_the_other_went_without_a_word() -> None:
    given = arguments("postgresql://db/app")
    told = dict(part.split("=") for part in str(given["options"]).split() if "tcp_" in part)

    for side in (
        {name: given[f"keepalives_{name}"] for name in KEEPALIVES},
        {name: told[f"tcp_keepalives_{name}"] for name in KEEPALIVES},
    ):
        idle, interval, count = (int(str(side[name])) for name in KEEPALIVES)
        assert 0 < idle + interval * count < Settings().lease_seconds
    assert given["tcp_user_timeout"] == int(told["tcp_user_timeout"])
    assert 0 < int(told["tcp_user_timeout"]) < Settings().lease_seconds * 1000


def test_what_the_url_says_wins() -> None:
    given = arguments("postgresql://db/app?connect_timeout=1&application_name=mine&options=-c%20statement_timeout%3D5")

    assert "connect_timeout" not in given
    assert "application_name" not in given
    assert str(given["options"]).endswith("-c statement_timeout=5")


def test_a_database_shows_itself_without_its_password() -> None:
    assert repr(Database("postgresql://app:hunter2@db/app")) == "Database('postgresql://app:***@db/app')"
