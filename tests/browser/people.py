"""Who asks and who answers: requests through the manager, and people at browsers that are watched for complaints."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

from llmteam.human import InteractionRequest
from llmteam.human.rulings import Case
from llmteam.tenancy import TenantContext
from tests.site import Site, TestClock

#: Milliseconds that a page has to become what a test waits for.
TIMEOUT = 15_000
#: What Chromium writes about every page that is a refusal. Which pages are, tests say themselves.
_STATUS = "Failed to load resource: the server responded with a status of 4"


@dataclass
class Stage:
    """A site, a browser program, and what happens between them."""

    site: Site
    chromium: Browser
    complaints: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)

    @property
    def clock(self) -> TestClock:
        """The site's clock."""
        clock = self.site.parts.clock
        assert isinstance(clock, TestClock)
        return clock

    # -- who asks

    def ask(self, kind: str, *what: Any, **fields: Any) -> InteractionRequest:
        """Ask ann, unless told otherwise: ``ask("approval", "Pay?", …)``."""
        fields.setdefault("assignee", "ann")
        asked: InteractionRequest = self.do(getattr(self.site.manager, f"request_{kind}")(*what, **fields))
        return asked

    def do(self, doing: Coroutine[Any, Any, Any]) -> Any:
        """What the manager does for this test's tenant. Playwright has this thread's event loop."""

        async def here() -> Any:
            with TenantContext(self.site.tenant):
                return await doing

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, here()).result()

    def case(self, request: InteractionRequest) -> Case:
        """All that is kept of a request."""
        case: Case | None = self.site.manager.store.core.case(request.tenant_id, request.request_id)
        assert case is not None
        return case

    # -- who answers

    def visitor(self, **options: Any) -> Page:
        """A page of a browser that has never been here. ``options`` are those of a browser context of Playwright."""
        context = self.chromium.new_context(base_url=self.site.url, locale="en-GB", timezone_id="UTC", **options)
        context.set_default_timeout(TIMEOUT)
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        page.on("requestfailed", self._miss)
        return page

    def signed_in(self, person: str = "ann", *groups: str, **options: Any) -> Page:
        """The list of requests of somebody."""
        page = self.visitor(**options)
        page.goto(f"/sign-in?token={self.site.token(person, *groups)}")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Sign out").wait_for()
        return page

    def at(self, request: InteractionRequest, person: str = "ann", *groups: str, **options: Any) -> Page:
        """The page of a request, opened from the list."""
        page = self.signed_in(person, *groups, **options)
        page.get_by_role("link", name=request.title).click()
        page.get_by_role("heading", name=request.title, level=1).wait_for()
        return page

    def close(self) -> None:
        """Close every browser, and so hear the last of what it had to say."""
        for context in self._contexts:
            context.close()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(_STATUS):
            self.complaints.append(f"{message.type} at {message.location['url']}: {message.text}")

    def _miss(self, request: Request) -> None:
        self.complaints.append(f"not loaded: {request.url} ({request.failure})")
