"""The inbox in a real Chromium: served by uvicorn over real Postgres and Valkey, a tenant for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from llmteam.db import Database
from llmteam.dispatch import CeleryDispatcher, celery_app
from llmteam.human import HumanInteractionManager
from llmteam.human.postgres import PostgresInteractionStore
from llmteam.settings import Settings
from llmteam.wakeup import RedisWakeup
from llmteam.web import Parts
from tests.browser.people import TIMEOUT, Stage
from tests.site import KEY, TestClock, site_of

_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Chromium looks for updates, experiments and the like unless it is told not to; tests speak to loopback only.
_FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--font-render-hinting=none",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A Chromium of the machine's, without a window."""
    program = os.environ.get("LLMTEAM_TEST_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.exit(
            f"no {', '.join(_NAMES)} on the path. Debian: apt-get install chromium. "
            "Or say where one is: LLMTEAM_TEST_CHROMIUM=/path/to/chromium",
            returncode=1,
        )
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def stage(chromium: Browser, database_url: str, clean_valkey: str) -> Iterator[Stage]:
    """People at their browsers. Whatever a browser complained of fails the test in the end.

    The site's clock stands, so that pictures are the same every time.
    """
    clock = TestClock()
    database = Database(database_url)
    app = celery_app(Settings(database_url=database_url, broker_url=clean_valkey))
    store = PostgresInteractionStore(
        database, wakeup=RedisWakeup(clean_valkey), dispatcher=CeleryDispatcher(app), clock=clock
    )
    with site_of(Parts(HumanInteractionManager(store, clock=clock), [KEY], clock=clock)) as site:
        stage = Stage(site, chromium)
        yield stage
        stage.close()
    database.close()
    assert stage.complaints == []
