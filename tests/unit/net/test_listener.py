"""The listener for probes: what it answers, whom it hangs up on."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from llmteam.errors import ConfigurationError
from llmteam.net.listener import MOST_CLIENTS, Page, listening
from tests.waiting import wait_until

HOST = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[int]:
    with listening((HOST, 0), {"/page": lambda: Page(503, b"not now\n")}) as taken:
        yield taken


def ask(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_a_page_is_made_for_each_request_and_others_are_not_there(port: int) -> None:
    assert ask(port, "GET", "/page?now=1") == (503, b"not now\n")
    assert ask(port, "HEAD", "/page") == (503, b"")
    assert ask(port, "GET", "/other")[0] == 404
    assert ask(port, "POST", "/page")[0] == 501


def test_clients_that_say_nothing_keep_nobody_else_waiting(port: int) -> None:
    with socket.create_connection((HOST, port)):
        assert ask(port, "GET", "/page")[0] == 503


def test_more_clients_than_are_served_at_once_are_hung_up_on(port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_CLIENTS):
            stack.enter_context(socket.create_connection((HOST, port)))
        last = stack.enter_context(socket.create_connection((HOST, port)))
        last.settimeout(5)
        assert last.recv(1) == b""
    wait_until(lambda: ask_or_none(port) == 503, "a place to be free again")


def ask_or_none(port: int) -> int | None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(port, "GET", "/page")[0]
    return None


def test_an_address_that_is_taken_is_named(port: int) -> None:
    with pytest.raises(ConfigurationError, match=f"listen on 127.0.0.1 port {port}"), listening((HOST, port), {}):
        pass


def test_nothing_listens_and_no_thread_is_left_afterwards() -> None:
    with listening((HOST, 0), {}) as port:
        pass

    with pytest.raises(ConnectionRefusedError):
        ask(port, "GET", "/")
    assert not [one for one in threading.enumerate() if one.name == "llmteam-listener"]
