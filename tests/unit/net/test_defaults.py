from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from llmteam import net
from llmteam.errors import ConfigurationError
from llmteam.net import defaults
from llmteam.net.defaults import server_endpoints
from llmteam.settings import Settings
from tests.unit.net.loopback import Loopback


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(defaults._process, "own", ())
    net.use_guard(None)
    yield
    net.use_guard(None)


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("postgresql://u:p@db.internal/app", ["db.internal:5432"]),
        ("postgresql+psycopg2://u:p@DB.internal:6000/app", ["db.internal:6000"]),
        ("postgresql://u@a:1,b,[::1]:3/app", ["a:1", "b:5432", "[::1]:3"]),
        ("postgresql:///app?host=db.internal&port=6000", ["db.internal:6000"]),
        ("postgresql:///app?host=/run/postgres", []),
        ("postgresql://u@%2Frun%2Fpostgres/app", []),
        ("redis://:p@cache:6380/0", ["cache:6380"]),
        ("rediss://cache/0", ["cache:6379"]),
        ("redis://", ["localhost:6379"]),
        ("redis+socket:///run/redis.sock", []),
        ("unix:///run/redis.sock", []),
        ("sentinel://a:1;sentinel://b:2", ["a:1", "b:2"]),
        ("amqp://u:p@mq//", ["mq:5672"]),
    ],
)
def test_the_servers_that_a_url_names_are_found(url: str, endpoints: list[str]) -> None:
    assert server_endpoints(url) == endpoints


def test_the_process_guard_refuses_the_servers_of_the_settings_and_flower(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTEAM_DATABASE_URL", f"postgresql://u:p@localhost:{server.port}/app")
    monkeypatch.setenv("LLMTEAM_ALLOW_PRIVATE_NETWORKS", f"127.0.0.0/8:{server.port},localhost:5555")
    for url in (server.url, "http://localhost:5555/api/tasks"):
        with pytest.raises(net.OutboundRefusedError, match="own servers"):
            net.default_client().request("GET", url)
    assert server.received == []


def test_the_process_client_allows_what_the_settings_allow(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMTEAM_ALLOW_PRIVATE_NETWORKS", server.endpoint)
    server.routes["/"] = lambda h: h.answer(body=b"here")
    client = net.default_client()
    assert client.request("GET", server.url).body == b"here"
    assert net.default_client() is client


def test_endpoints_that_become_known_later_are_refused_from_then_on(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTEAM_ALLOW_PRIVATE_NETWORKS", server.endpoint)
    server.routes["/"] = lambda h: h.answer()
    net.default_client().request("GET", server.url)
    net.refuse_endpoints(server.endpoint)
    with pytest.raises(net.OutboundRefusedError, match="own servers"):
        net.default_client().request("GET", server.url)
    net.use_guard(None)
    with pytest.raises(net.OutboundRefusedError, match="own servers"):
        net.default_client().request("GET", server.url)


def test_every_allowance_that_settings_accept_is_understood() -> None:
    settings = Settings.load(
        {"LLMTEAM_ALLOW_PRIVATE_NETWORKS": "10.0.0.0/8:443,[fd00::/8]:443,crm.internal:80,[::1]:9"}
    )
    assert net.guard_from(settings)
    with pytest.raises(ConfigurationError, match="LLMTEAM_ALLOW_PRIVATE_NETWORKS"):
        net.guard_from(Settings.load({"LLMTEAM_ALLOW_PRIVATE_NETWORKS": "*.internal:80"}))


def test_importing_the_package_loads_no_http_library() -> None:
    code = "import sys, llmteam.net; print([m for m in ('requests', 'urllib3', 'httpx2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
