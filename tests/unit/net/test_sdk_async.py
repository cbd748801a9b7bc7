"""The model SDKs' transport; how the SDKs fare on it is shown beside the providers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest

from llmteam.net import OutboundGuard, OutboundRefusedError, async_sdk_http_client
from tests.unit.net.loopback import Loopback, certificate, server_context, serving
from tests.unit.net.test_guard import Names


def get(base_url: str, url: str, guard: OutboundGuard) -> httpx2.Response:
    async def once() -> httpx2.Response:
        async with async_sdk_http_client(base_url, 5, guard=guard) as client:
            return await client.get(url)

    return asyncio.run(once())


def test_proxies_of_the_environment_are_ignored(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.routes["/"] = lambda h: h.answer(body=b"here")
    assert get(server.url, server.url, OutboundGuard()).text == "here"


def test_the_connection_goes_to_the_address_that_was_checked(server: Loopback) -> None:
    server.routes["/"] = lambda h: h.answer(body=h.headers["Host"].encode())
    names = Names(model_example=[["127.0.0.1"], ["127.0.0.2"]])
    url = f"http://model.example:{server.port}/"
    assert get(url, url, OutboundGuard(resolver=names)).text == f"model.example:{server.port}"
    assert names.asked == ["model.example"]


def test_a_trusted_name_that_leads_to_metadata_is_refused() -> None:
    url = "http://model.example/"
    with pytest.raises(OutboundRefusedError, match="metadata"):
        get(url, url, OutboundGuard(resolver=Names(model_example=[["169.254.169.254"]])))


def test_the_certificate_is_verified(tmp_path: Path) -> None:
    with serving(server_context(certificate(tmp_path, "model.example"))) as server:
        url = f"https://model.example:{server.port}/"
        with pytest.raises(httpx2.ConnectError):
            get(url, url, OutboundGuard(resolver=Names(model_example=[["127.0.0.1"]])))
        assert server.received == []
