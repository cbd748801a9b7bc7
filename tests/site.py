"""The web inbox over real HTTP on loopback, and a browser without scripts for it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import requests
import uvicorn

from llmteam.human import HumanInteractionManager
from llmteam.human.links import Access, AnswerLink
from llmteam.ids import new_id
from llmteam.web import Parts, create_app
from tests.waiting import wait_until

KEY = b"a key for tests that is long enough"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class TestClock:
    """A clock that a test moves."""

    __test__ = False

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Site:
    """A running inbox: where it is, through what it works, and tokens and links for it. Its people are one tenant's."""

    url: str
    parts: Parts
    tenant: str = "acme"

    @property
    def manager(self) -> HumanInteractionManager:
        return self.parts.manager

    def token(self, person: str, *groups: str, tenant: str = "", hours: float = 1) -> str:
        until = self.parts.now() + timedelta(hours=hours)
        return self.parts.signer.sign_access(Access(tenant or self.tenant, person, groups, until))

    def link(self, request: Any, person: str, *, hours: float = 1, link_id: str | None = None) -> str:
        until = self.parts.now() + timedelta(hours=hours)
        said = (request.tenant_id, request.request_id, person, request.shown_hash, link_id or new_id())
        return f"/answer/{self.parts.signer.sign_link(AnswerLink(*said, until))}"

    def api(self, person: str = "ann", *groups: str, tenant: str = "") -> Api:
        return Api(self.url, self.token(person, *groups, tenant=tenant))

    def browser(self) -> Browser:
        return Browser(self.url)

    def signed_in(self, person: str = "ann", *groups: str, tenant: str = "") -> Browser:
        browser = self.browser()
        browser.open("/sign-in")
        browser.send({"token": self.token(person, *groups, tenant=tenant)})
        assert browser.status == 200, browser.text
        return browser


@contextmanager
def site_of(parts: Parts) -> Iterator[Site]:
    """Serve an application of these parts for the block."""
    config = uvicorn.Config(
        create_app(parts), host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="site")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the site to listen")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Site(f"http://127.0.0.1:{port}", parts)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@dataclass
class Api:
    """A program with an access token."""

    url: str
    token: str

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.call("POST", path, **({} if body is None else {"json": body}), **options)

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return requests.request(method, f"{self.url}/api{path}", headers=headers, timeout=30, **options)


@dataclass
class Control:
    """A field of a form."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    options: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def value(self) -> str | None:
        """What a browser sends when nobody touches it; None when it sends nothing."""
        kind = self.attributes.get("type", "")
        if self.tag == "textarea":
            return self.text.removeprefix("\n")
        if self.tag == "select":
            return next((value for value, selected in self.options if selected), self.options[0][0])
        if self.tag == "button" or (kind in {"checkbox", "radio"} and "checked" not in self.attributes):
            return None
        return self.attributes.get("value", "")


@dataclass
class Form:
    """A form of a page."""

    attributes: dict[str, str]
    controls: list[Control] = field(default_factory=list)

    def values(self) -> dict[str, str]:
        return {
            control.attributes["name"]: control.value
            for control in self.controls
            if "name" in control.attributes and control.value is not None
        }


class Page(HTMLParser):
    """A page as its parts."""

    _VOID = frozenset(
        ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
    )

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.ids: list[str] = []
        self.labels: dict[str, str] = {}
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self._label = ""
        self._outside: list[Control] = []
        self._control: Control | None = None
        self.feed(text)
        self.close()
        assert self.open == [], f"elements that are not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in self._VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "form":
            self.forms.append(Form(attributes))
        elif tag == "label":
            self._label = attributes["for"]
            self.labels[self._label] = ""
        elif tag == "option" and self._control is not None:
            self._control.options.append((attributes.get("value", ""), "selected" in attributes))
        elif tag in {"input", "textarea", "select", "button"}:
            self._control = Control(tag, attributes)
            (self.forms[-1].controls if "form" in self.open else self._outside).append(self._control)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()
        if tag == "label":
            self._label = ""

    def handle_data(self, data: str) -> None:
        if self._label:
            self.labels[self._label] += data.strip()
        if self.open and self.open[-1] == "textarea" and self._control is not None:
            self._control.text += data
        if data.strip() and "head" not in self.open:
            self.words.append(data.strip())

    @property
    def said(self) -> str:
        """The text of the page."""
        return re.sub(r"\s+", " ", " ".join(self.words))


class Browser:
    """A browser that keeps cookies, follows redirects, and sends the forms of the page it shows."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.response = requests.Response()

    def open(self, path: str) -> Page:
        return self._take(self.session.get(self.url + path, timeout=30))

    def send(
        self, values: Mapping[str, str], *, form: str = "", without: tuple[str, ...] = (), button: str = ""
    ) -> Page:
        """Fill the first form whose address ends with ``form``, press a button (by its value) and send it."""
        found = [one for one in self.page.forms if self._where(one).endswith(form)]
        if button:
            found = [one for one in found if any(c.attributes.get("value") == button for c in one.controls)]
        assert found, f"no form {form!r} {button!r} on the page: {self.page.said}"
        filled = {**found[0].values(), **values}
        if button:
            filled["decision"] = button
        for name in without:
            filled.pop(name, None)
        return self.post(self._where(found[0]), filled)

    def post(self, path: str, fields: Mapping[str, str]) -> Page:
        return self._take(self.session.post(self.url + path, data=dict(fields), timeout=30))

    @staticmethod
    def _where(form: Form) -> str:
        return form.attributes["action"]

    def _take(self, response: requests.Response) -> Page:
        self.response = response
        return self.page

    @property
    def page(self) -> Page:
        return Page(self.response.text)

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def text(self) -> str:
        return self.response.text
