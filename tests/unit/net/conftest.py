from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmteam.net import HttpClient, OutboundGuard
from tests.unit.net.loopback import Loopback, serving


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        yield running


@pytest.fixture
def client(server: Loopback) -> Iterator[HttpClient]:
    """A client that may reach ``server`` and nothing else that is private."""
    made = HttpClient(OutboundGuard(allow_private=[server.endpoint]))
    yield made
    made.close()
