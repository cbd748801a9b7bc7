"""Hosts as processes behind forwarders: what is cut passes nothing on and tells nobody, in either direction."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from hosts.forwarders import Forwarders
from hosts.network import CUTS, POSTGRES, VALKEY, Kind
from tests.waiting import wait_until

HOST = "host-1"


class Shouting(threading.Thread):
    """A server that answers in capitals, and remembers what it has heard."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.heard = b""
        self._listening = socket.create_server(address)

    def run(self) -> None:
        connection, _ = self._listening.accept()
        with self._listening, connection:
            while chunk := connection.recv(100):
                self.heard += chunk
                connection.sendall(chunk.upper())


@pytest.fixture
def network() -> Iterator[Forwarders]:
    with closing(Forwarders([HOST])) as network:
        yield network


@pytest.fixture
def server(network: Forwarders) -> Shouting:
    server = Shouting(network.listens(POSTGRES))
    server.start()
    return server


@pytest.fixture
def client(network: Forwarders, server: Shouting) -> Iterator[socket.socket]:
    """A connection from the host to the server, which both know to work."""
    with socket.create_connection(network.reaches(HOST, POSTGRES), timeout=10) as client:
        client.sendall(b"first")
        assert client.recv(100) == b"FIRST"
        yield client


def is_told_nothing(client: socket.socket) -> bool:
    return not select.select([client], [], [], 0.2)[0]


def test_what_is_said_while_a_host_is_apart_arrives_when_it_is_joined_again(
    network: Forwarders, server: Shouting, client: socket.socket
) -> None:
    network.cut(HOST, CUTS[Kind.APART])
    client.sendall(b"second")
    assert is_told_nothing(client)
    assert server.heard == b"first"

    network.join(HOST)

    assert client.recv(100) == b"SECOND"


def test_a_deaf_host_is_heard_and_hears_nothing(network: Forwarders, server: Shouting, client: socket.socket) -> None:
    network.cut(HOST, CUTS[Kind.DEAF])

    client.sendall(b"second")

    wait_until(lambda: server.heard == b"firstsecond", "the server to hear it")
    assert is_told_nothing(client)


def test_a_mute_host_is_not_heard(network: Forwarders, server: Shouting, client: socket.socket) -> None:
    network.cut(HOST, CUTS[Kind.MUTE])

    client.sendall(b"second")

    assert is_told_nothing(client)
    assert server.heard == b"first"


def test_the_end_of_a_connection_is_not_told_before_the_host_is_joined_again(
    network: Forwarders, server: Shouting, client: socket.socket
) -> None:
    network.cut(HOST, CUTS[Kind.UNPLUGGED])
    client.shutdown(socket.SHUT_WR)
    assert is_told_nothing(client)

    network.join(HOST)

    assert client.recv(100) == b""


def test_a_server_that_is_cut_off_says_nothing_of_the_other(
    network: Forwarders, server: Shouting, client: socket.socket
) -> None:
    network.cut(HOST, CUTS[Kind.NO_VALKEY])
    client.sendall(b"second")
    assert client.recv(100) == b"SECOND"

    with socket.create_connection(network.reaches(HOST, VALKEY), timeout=10) as refused:
        assert is_told_nothing(refused)
