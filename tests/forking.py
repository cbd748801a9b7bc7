"""``llmteam`` as a process that is forked from one that has imported it: a tenth of the processor time of a new one.

The command has its own working directory, environment and streams, and ends as any process does. What differs is that
its modules are loaded already; documents and wheels are tested with interpreters that begin with nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

from tests.embedding import PYTHONPATH, ROOT
from tests.forked import command

#: What commands load of others, as far as they do not name it.
_LIBRARIES = ("alembic.command", "kombu.transport.redis", "rich.live", "sqlalchemy.dialects.postgresql.psycopg2")
#: What is left to the commands: importing it makes a Celery application, or needs what few of them need.
_LEFT_OUT = ("llmteam.tasks", "llmteam.web", "llmteam.examples", "llmteam.db.migrations", "llmteam.runtime.providers")


class ForkServer:
    """The process of which commands are forked; it ends with this one."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="llmteam-fork-"))
        self._address = str(self._folder / "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as orders:
            orders.bind(self._address)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.forking", str(orders.fileno())],
                cwd="/",
                env=os.environ | PYTHONPATH,
                stdin=subprocess.PIPE,
                pass_fds=[orders.fileno()],
            )
        atexit.register(self.close)

    def close(self) -> None:
        """End the process. Commands that still run are not waited for: their test has ended."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._folder)

    def run(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: str | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end, as ``subprocess.run`` does; what takes longer is killed."""
        words = ["llmteam", *arguments]
        with _file(stdin or "") as given, _file("") as out, _file("") as err:
            streams = [one.fileno() for one in (given, out, err)]
            try:
                code = command(self._address, arguments, streams, cwd=str(cwd), env=env, timeout=timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired(words, timeout, _text(out), _text(err)) from None
            return subprocess.CompletedProcess(words, code, _text(out), _text(err))

    def program(self) -> Path:
        """The folder of a program ``llmteam`` for the path of a shell."""
        folder = self._folder / "bin"
        if not folder.exists():
            folder.mkdir()
            path = folder / "llmteam"
            path.write_text(_PROGRAM.format(python=sys.executable, root=str(ROOT), address=self._address))
            path.chmod(0o755)
        return folder


_PROGRAM = """#!{python} -IS
import sys
sys.path.append({root!r})
from tests.forked import main
main({address!r})
"""


@functools.cache
def fork_server() -> ForkServer:
    """The one of this process."""
    return ForkServer()


def _file(text: str) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by whom it is given to
    file.write(text.encode())
    file.seek(0)
    return file


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


# -- the process of which commands are forked


def serve(orders: socket.socket) -> None:
    """Fork a command for each order, until the other end of standard input is closed."""
    _load()
    while orders in select.select([orders, sys.stdin], [], [])[0]:
        _, files, _, _ = socket.recv_fds(orders, 16, 5)
        if os.fork() == 0:
            orders.close()
            _watch(socket.socket(fileno=files[0]), files[1:])
        for file in files:
            os.close(file)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _load() -> None:
    import llmteam

    for name in (*_LIBRARIES, *_modules_below("llmteam", llmteam.__path__)):
        importlib.import_module(name)
    # What is never collected is never written to, and so is shared with the commands.
    gc.collect()
    gc.freeze()


def _modules_below(package: str, path: Iterable[str]) -> Iterator[str]:
    for one in pkgutil.iter_modules(path, f"{package}."):
        if one.name not in _LEFT_OUT:
            yield one.name
            if one.ispkg:
                yield from _modules_below(one.name, importlib.import_module(one.name).__path__)


def _watch(caller: socket.socket, files: Sequence[int]) -> NoReturn:
    """Run the command in a process of its own and tell how it ended."""
    pid = os.fork()
    if pid == 0:
        caller.close()
        os._exit(_command(*files))
    caller.send(pid.to_bytes(8, "big", signed=True))
    _, status = os.waitpid(pid, 0)
    # Whoever gave the order may have gone.
    with contextlib.suppress(OSError):
        caller.send(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
    os._exit(0)


def _command(order: int, *streams: int) -> int:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", errors="backslashreplace")  # noqa: SIM115
    with open(order) as file:
        given = json.load(file)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["environment"])
    time.tzset()
    sys.argv = ["llmteam", *given["arguments"]]
    return _ended(sys.argv[1:])


def _ended(arguments: list[str]) -> int:
    """Run the command as an interpreter does that ends with it; its exit code."""
    from llmteam.cli.main import main

    code = 0
    try:
        main(arguments)
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001  # as an interpreter does
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
