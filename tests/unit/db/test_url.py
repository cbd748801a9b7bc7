"""What libpq is told, from the URL and from our defaults."""

from __future__ import annotations

import pytest

from llmteam.db import Database
from llmteam.db.engine import connect_args, parse_url, session_of
from llmteam.errors import ConfigurationError
from llmteam.settings import Settings

KEEPALIVES = ("idle", "interval", "count")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_every_spelling_of_the_scheme_means_psycopg2(scheme: str) -> None:
    assert parse_url(f"{scheme}://db/app").drivername == "postgresql+psycopg2"


@pytest.mark.parametrize(
    "url", ["", "db/app", "mysql://db/app", "postgresql+asyncpg://db/app", "postgresql://h:port/db"]
)
def test_another_driver_or_no_url_is_refused_by_the_name_of_the_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match="LLMTEAM_DATABASE_URL"):
        Database(url)


def test_a_session_has_its_timeouts_and_its_clock() -> None:
    session = session_of(parse_url("postgresql://db/app"), 30.0, 0.5, 60.0)

    assert session["statement_timeout"] == "30000"
    assert session["lock_timeout"] == "500"
    assert session["idle_in_transaction_session_timeout"] == "60000"
    assert session["timezone"] == "UTC"


def test_both_sides_notice_within_a_lease_that_the_other_went_without_a_word() -> None:
    url = parse_url("postgresql://db/app")
    ours, theirs = connect_args(url, "llmteam"), session_of(url, 30.0, 0.5, 60.0)
    sides = (
        [ours[f"keepalives_{name}"] for name in KEEPALIVES],
        [theirs[f"tcp_keepalives_{name}"] for name in KEEPALIVES],
    )

    for side in sides:
        idle, interval, count = (int(one) for one in side)
        assert 0 < idle + interval * count < Settings().lease_seconds
    for silence in (ours["tcp_user_timeout"], theirs["tcp_user_timeout"]):
        assert 0 < int(silence) < Settings().lease_seconds * 1000


def test_what_the_url_says_wins() -> None:
    url = parse_url("postgresql://db/app?connect_timeout=1&application_name=mine")

    given = connect_args(url, "llmteam")

    assert "connect_timeout" not in given
    assert "application_name" not in given


@pytest.mark.parametrize("options", ["-c%20statement_timeout%3D5", "-cstatement_timeout=5", "--STATEMENT_TIMEOUT=5"])
def test_what_the_options_of_the_url_name_is_left_to_them(options: str) -> None:
    session = session_of(parse_url(f"postgresql://db/app?options=-c%20work_mem%3D8MB%20{options}"), 30.0, 0.5, 60.0)

    assert "statement_timeout" not in session
    assert "lock_timeout" in session


def test_a_database_shows_itself_without_its_password() -> None:
    assert repr(Database("postgresql://app:hunter2@db/app")) == "Database('postgresql://app:***@db/app')"
