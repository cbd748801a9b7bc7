"""State, locks, places and the care for one process, each by itself."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llmteam.embedded import EmbeddedPlaceError, EmbeddedStartError, leftovers
from llmteam.embedded.places import SOCKET_PATH_LIMIT, Place, _fits
from llmteam.embedded.postgres_server import PostgresServer
from llmteam.embedded.processes import StopSignals
from llmteam.embedded.state import Control, Lock, State
from llmteam.embedded.supervisor import Supervised
from llmteam.embedded.valkey_server import ValkeyServer, _quoted
from tests.waiting import wait_until

STATE = State(root="/data", run="/run", port=20_000, password="secret", clean=False)


@pytest.fixture
def control(tmp_path: Path) -> Control:
    made = Control(tmp_path / "home")
    made.create()
    return made


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "conf").mkdir()
    (tmp_path / "log").mkdir()
    return Place(tmp_path, tmp_path / "run", None, ())


class TestState:
    def test_what_was_saved_is_loaded(self, control: Control) -> None:
        assert control.load() is None
        control.save(STATE)
        control.save(replace(STATE, clean=True))
        assert control.load() == replace(STATE, clean=True)

    def test_nobody_else_can_read_it(self, control: Control) -> None:
        control.save(STATE)
        assert (control.folder / "servers.json").stat().st_mode & 0o077 == 0

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(EmbeddedPlaceError, match="LLMTEAM_HOME"):
            Control(tmp_path / "file" / "home").create()


HOLDER = """
import sys
from pathlib import Path
from llmteam.embedded.state import Lock
print(Lock(Path(sys.argv[1])).acquire(0), flush=True)
sys.stdin.read()
"""


class TestLock:
    @pytest.fixture
    def holder(self, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        argv = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": ":".join(sys.path)}
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
            process.kill()

    def test_it_keeps_another_process_out_until_the_holder_dies(
        self, holder: subprocess.Popen[str], tmp_path: Path
    ) -> None:
        lock = Lock(tmp_path / "lock")
        assert not lock.acquire(0.05)
        holder.kill()
        assert lock.acquire(5.0)
        lock.release()

    def test_waiting_can_be_given_up(self, holder: subprocess.Popen[str], tmp_path: Path) -> None:
        def give_up() -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            Lock(tmp_path / "lock").acquire(60.0, give_up)

    def test_it_notices_that_its_file_was_deleted_or_replaced(self, tmp_path: Path) -> None:
        lock = Lock(tmp_path / "lock")
        assert lock.acquire(0)
        assert lock.still_there()
        (tmp_path / "lock").rename(tmp_path / "moved")
        assert not lock.still_there()
        (tmp_path / "lock").touch()
        assert not lock.still_there()
        lock.release()


@pytest.mark.parametrize(
    ("length", "fits"), [(SOCKET_PATH_LIMIT, True), (SOCKET_PATH_LIMIT + 1, False)], ids=["just", "too long"]
)
def test_sockets_go_only_where_their_path_fits(length: int, fits: bool) -> None:
    run = Path("/" + "x" * (length - len("//pg/.s.PGSQL.5432")))
    assert _fits(run) is fits


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a'b", "a\\b"])
def test_sockets_do_not_go_where_the_path_would_be_read_as_something_else(name: str) -> None:
    assert not _fits(Path("/") / name)


class TestWhoIsOurs:
    def test_a_postgres_is_known_by_its_cluster_name(self, place: Place) -> None:
        server = PostgresServer(place)
        mine = server._marker
        assert server._is_ours(server.command())
        assert server._is_ours([f"postgres: {mine}: checkpointer ", "", ""])
        assert not server._is_ours([])
        assert not server._is_ours(["postgres: other: checkpointer "])
        assert not server._is_ours(["grep", f"cluster_name={mine}"])
        assert not server._is_ours(["/usr/bin/postgres", "-D", str(server.data)])

    def test_a_valkey_is_known_by_its_configuration(self, place: Place) -> None:
        server = ValkeyServer(place, 0, "secret")
        assert server._is_ours(server.command())
        assert not server._is_ours(["valkey-server", "/etc/valkey.conf"])
        assert not server._is_ours(["vi", str(place.config("valkey.conf"))])

    def test_two_homes_are_told_apart(self, place: Place, tmp_path: Path) -> None:
        other = PostgresServer(replace(place, root=tmp_path / "other"))
        assert not other._is_ours(PostgresServer(place).command())


def test_valkey_is_configured_without_its_password(place: Place) -> None:
    server = ValkeyServer(place, 0, "secret")
    server.prepare(lambda: None)
    text = place.config("valkey.conf").read_text()
    assert f"port {server.port}" in text
    assert "secret" not in text


def test_a_path_is_quoted_for_valkey() -> None:
    assert _quoted(Path('/a "b" \\c')) == '"/a \\"b\\" \\\\c"'


class Program:
    """A server for the supervisor: any program at all."""

    name = label = "program"
    death_signal = signal.SIGKILL
    stop_signals: StopSignals = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))

    def __init__(self, log: Path, *argv: str, elsewhere: bool = False) -> None:
        self.log = log
        self.argv = list(argv)
        self.elsewhere = elsewhere

    def clear_leftovers(self, thorough: bool) -> None:
        pass

    def prepare(self, wanted: Callable[[], None]) -> None:
        pass

    def command(self) -> list[str]:
        return self.argv

    def ready(self, pid: int) -> bool:
        return "ready" in self.log.read_text()

    def retry_elsewhere(self, log_tail: str) -> bool:
        self.argv = ["/bin/sh", "-c", "echo ready; exec sleep 60"]
        return self.elsewhere

    def addresses(self) -> dict[str, str]:
        return {}


class TestSupervised:
    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        return tmp_path / "program.log"

    def test_a_program_that_ends_is_reported_with_its_last_words(self, log: Path) -> None:
        server = Supervised(Program(log, "/bin/sh", "-c", "echo no room; exit 3"), None)
        with pytest.raises(EmbeddedStartError, match=r"(?s)ended with code 3.*no room"):
            server.start(lambda: None, thorough=False)

    def test_a_program_whose_port_was_taken_is_tried_elsewhere(self, log: Path) -> None:
        server = Supervised(Program(log, "/bin/sh", "-c", "exit 1", elsewhere=True), None)
        server.start(lambda: None, thorough=False)
        assert server.pid
        server.stop()
        assert server.pid is None

    def test_a_start_that_nobody_wants_any_more_leaves_no_process(self, log: Path) -> None:
        pids = []

        def nobody_left() -> None:
            pids.append(server.pid)
            raise InterruptedError

        server = Supervised(Program(log, "sleep", "60"), None)
        with pytest.raises(InterruptedError):
            server.start(nobody_left, thorough=False)
        assert not psutil.pid_exists(pids[0])

    def test_a_program_that_ignores_the_polite_signal_is_killed(self, log: Path) -> None:
        program = Program(log, "/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done")
        program.stop_signals = ((signal.SIGTERM, 0.05), (signal.SIGKILL, 5.0))
        server = Supervised(program, None)
        server.start(lambda: None, thorough=False)
        pid = server.pid
        server.stop()
        assert pid is not None
        assert not psutil.pid_exists(pid)

    def test_a_program_that_ends_unasked_is_started_again(self, log: Path) -> None:
        server = Supervised(Program(log, "/bin/sh", "-c", "echo ready; exec sleep 60"), None)
        server.start(lambda: None, thorough=False)
        before = server.pid
        assert before is not None
        psutil.Process(before).kill()
        wait_until(server.ended, "the end to be noticed")
        wait_until(lambda: server.care() is None and server.pid not in {None, before}, "another process")
        assert server.restarts == 1
        server.stop()

    def test_a_program_that_ends_each_time_is_given_up(self, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llmteam.embedded.supervisor._RESTARTS_IN_A_ROW", 2)
        server = Supervised(Program(log, "/bin/sh", "-c", "echo ready; sleep 0.05; exit 1"), None)
        server.start(lambda: None, thorough=False)

        def given_up() -> bool:
            server.care()
            return server._process is None

        wait_until(given_up, "the supervisor to give up")
        assert server.restarts == 2


def test_a_process_is_ended_by_the_first_signal_that_does_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert leftovers.end([psutil.Process(process.pid)], ((signal.SIGCONT, 0.01), (signal.SIGKILL, 5.0))) == []
        assert process.wait() == -signal.SIGKILL
