"""What calls to the outside, circuits and sweeps count as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from llmteam.net import ConnectError, HttpClient, HTTPStatusError, OutboundGuard, OutboundRefusedError
from llmteam.ratelimit.circuits.memory import MemoryCircuitBackend
from llmteam.ratelimit.decisions import LimitKey, Outcome
from llmteam.ratelimit.models import CircuitBreakerConfig
from tests.scraping import Scrape, counted
from tests.unit.net.loopback import Loopback, serving


@pytest.fixture
def told() -> Iterator[Callable[[], Scrape]]:
    with counted() as told:
        yield told


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        yield running


def test_requests_count_by_what_was_answered_and_not_by_whom(told: Callable[[], Scrape], server: Loopback) -> None:
    server.routes["/canary"] = lambda handler: handler.answer(201)
    server.routes["/moved"] = lambda handler: handler.answer(302, Location="/canary")
    server.routes["/cut"] = lambda handler: handler.hang_up(b"noise\r\n\r\n")
    server.routes["/broken"] = lambda handler: handler.answer(503)
    client = HttpClient(OutboundGuard(allow_private=[server.endpoint]))

    client.request("GET", f"{server.url}/canary?secret=canary")
    client.request("GET", f"{server.url}/moved")
    with pytest.raises(HTTPStatusError):
        client.request("GET", f"{server.url}/broken", raise_for_status=True)
    with pytest.raises(OutboundRefusedError):
        client.request("GET", "http://127.0.0.1:1/")
    with pytest.raises(ConnectError):
        client.request("GET", f"{server.url}/cut")
    client.close()

    assert told().by("llmteam_http_requests_total", "status_class") == {
        ("2xx",): 2,
        ("5xx",): 1,
        ("refused",): 1,
        ("error",): 1,
    }
    assert "canary" not in told().text
    assert "127.0.0.1" not in told().text


def test_changes_of_a_circuit_count_for_its_limit_and_not_for_its_tenant(told: Callable[[], Scrape]) -> None:
    now = 0
    circuits = MemoryCircuitBackend(now=lambda: now)
    config = CircuitBreakerConfig(failure_threshold=1, success_threshold=1, open_timeout=timedelta(seconds=1))
    key = LimitKey("mail", "tenant-canary", "part-canary")

    circuits.record(key, config, circuits.allow(key, config, "one"), Outcome.FAILURE)
    now = 10_000
    circuits.record(key, config, circuits.allow(key, config, "two"), Outcome.SUCCESS)

    assert told().by("llmteam_circuit_changes_total", "limit", "state") == {
        ("mail", "open"): 1,
        ("mail", "half_open"): 1,
        ("mail", "closed"): 1,
    }
    assert "canary" not in told().text
