"""Owners and guardian understand each other, and notice each other's death."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam.embedded import wire
from llmteam.embedded.wire import Line, Listener


@pytest.fixture
def ends() -> Iterator[tuple[Line, socket.socket]]:
    line, other = wire.pair()
    yield line, other
    line.close()
    other.close()


@given(cuts=st.lists(st.integers(1, 60), max_size=8))
def test_messages_arrive_whole_however_they_are_cut(cuts: list[int]) -> None:
    line, other = wire.pair()
    text = b'{"do":"own","pid":1}\n{"do":"leave"}\n{"do":"status"}\n'
    heard = []
    with other:
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(text)], strict=True):
            other.sendall(text[start:end])
            heard += list(line.arrived())
        line.close()
    assert heard == [{"do": "own", "pid": 1}, {"do": "leave"}, {"do": "status"}]


def test_what_one_end_sends_the_other_receives(ends: tuple[Line, socket.socket]) -> None:
    line, other = ends
    far = Line(other)
    far.send({"answer": 42})
    assert line.receive(1.0) == {"answer": 42}


def test_a_closed_end_is_noticed_with_and_without_reading(ends: tuple[Line, socket.socket]) -> None:
    line, other = ends
    assert not line.is_closed()
    other.sendall(b'{"last":')
    assert not line.is_closed()
    other.close()
    assert list(line.arrived()) == []
    assert line.is_closed()
    assert line.peer_gone
    assert line.receive(1.0) is None


def test_waiting_for_an_answer_ends_in_time(ends: tuple[Line, socket.socket]) -> None:
    line, _ = ends
    with pytest.raises(TimeoutError):
        line.receive(0.01)


def test_a_caller_that_sends_a_message_without_end_counts_as_gone(ends: tuple[Line, socket.socket]) -> None:
    line, other = ends
    other.setblocking(False)
    sent = 0
    while not line.peer_gone:
        sent += other.send(b"x" * 65536)
        assert list(line.arrived()) == []
    assert sent < 2 << 20


def test_a_leftover_socket_file_is_replaced_and_nobody_else_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("left behind")
    listener = Listener(path)
    assert path.stat().st_mode & 0o777 == 0o600
    caller = wire.connect(path, 1.0)
    answerer = listener.accept()
    assert answerer is not None
    for end in (caller, answerer, listener):
        end.close()
    assert not path.exists()


def test_connecting_where_nobody_listens_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        wire.connect(tmp_path / "nobody", 5.0)


def test_a_port_that_is_taken_is_not_free() -> None:
    with socket.create_server((wire.LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        assert not wire.port_is_free(port)
    assert wire.port_is_free(port)


def test_a_server_that_does_not_know_the_password_is_not_ours() -> None:
    with socket.create_server((wire.LOOPBACK, 0)) as server:
        caller = socket.create_connection(server.getsockname())
        stranger, _ = server.accept()
        caller.close()
        stranger.close()
        port = server.getsockname()[1]
    assert not wire.redis_answers(port, "password")
