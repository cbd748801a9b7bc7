"""Hosts as network namespaces on one bridge, each with an address of its own.

Namespaces have no names: they live as long as a process is in them or the harness holds them open, so that a harness
that was killed leaves none. The bridge stands in a namespace too, the harness's own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from hosts.network import SERVERS, Cut, inside
from llmteam.embedded.processes import Account
from llmteam.errors import LLMTeamError

_CLONE_NEWNET = 0x40000000
_BRIDGE = "lthbridge"
_SUBNET = "10.213.0"
_PORTS = {"postgres": 5432, "valkey": 6379}
#: Nobody has it: what is sent there is lost without a word.
_NOWHERE = "02:6c:74:00:ff:ff"
#: Tells the program that it is in its own namespace.
_MARK = "LLMTEAM_HOSTS_INSIDE"


class NetworkError(LLMTeamError, RuntimeError):
    """The kernel or ``ip`` refused."""


def enter(module: str) -> None:
    """Start this program again in a network of its own, unless it is there or the kernel refuses.

    Root needs nothing else; others are root in a user namespace of theirs, where the kernel lets them.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    command = ["unshare", *user, "--net"]
    if entered() or shutil.which("unshare") is None or shutil.which("ip") is None:
        return
    trial = subprocess.run([*command, "ip", "link", "add", _BRIDGE, "type", "bridge"], capture_output=True, check=False)
    if trial.returncode == 0:
        program = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execvpe(command[0], [*command, *program], {**os.environ, _MARK: str(os.getpid())})


def entered() -> bool:
    """Whether this process is in a network of its own."""
    return os.environ.get(_MARK) == str(os.getpid())


class Namespaces:
    """See the module; to be made where :func:`enter` was called."""

    words = "network namespaces on a bridge"
    address = f"{_SUBNET}.1"

    def __init__(self, hosts: Sequence[str]) -> None:
        self._open: dict[str, int] = {}
        self._numbers = {name: number for number, name in enumerate((*SERVERS, *hosts), 2)}
        self._hosts = list(hosts)
        _ip(
            None,
            "link set lo up",
            f"link add {_BRIDGE} type bridge",
            f"address add {self.address}/24 dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
        )
        for name in self._numbers:
            self._plug_in(name)
        for host in self._hosts:
            self._introduce(host)

    def _plug_in(self, name: str) -> None:
        self._open[name] = _namespace()
        number = self._numbers[name]
        _ip(
            None,
            f"link add lth{number} type veth peer name eth0 address {_mac(number)} netns {self._path(name)}",
            f"link set lth{number} master {_BRIDGE}",
            f"link set lth{number} up",
        )
        _ip(
            self._path(name),
            "link set lo up",
            f"address add {_SUBNET}.{number}/24 dev eth0",
            "link set eth0 up",
        )

    def _introduce(self, host: str) -> None:
        """Tell host and servers each other's hardware addresses, so that none is ever asked for in vain and noticed."""
        _ip(self._path(host), *(_neighbour(self._numbers[server]) for server in SERVERS))
        for server in SERVERS:
            _ip(self._path(server), _neighbour(self._numbers[host]))

    def _path(self, name: str) -> str:
        return f"/proc/{os.getpid()}/fd/{self._open[name]}"

    def listens(self, server: str) -> tuple[str, int]:
        return f"{_SUBNET}.{self._numbers[server]}", _PORTS[server]

    def reaches(self, host: str, server: str) -> tuple[str, int]:
        return self.listens(server)

    def seen_as(self, host: str) -> str | None:
        return f"{_SUBNET}.{self._numbers[host]}"

    def command(self, host: str, account: Account | None, number: signal.Signals, argv: Sequence[str]) -> list[str]:
        return inside(self._path(host), account, number, argv)

    def cut(self, host: str, cut: Cut) -> None:
        if cut.unplugged:
            _ip(None, f"link set lth{self._numbers[host]} down")
            return
        _ip(self._path(host), *(_neighbour(self._numbers[server], _NOWHERE) for server in cut.to))
        for server in cut.back:
            _ip(self._path(server), _neighbour(self._numbers[host], _NOWHERE))

    def join(self, host: str) -> None:
        _ip(None, f"link set lth{self._numbers[host]} up")
        self._introduce(host)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def _mac(number: int) -> str:
    return f"02:6c:74:00:00:{number:02x}"


def _neighbour(number: int, mac: str | None = None) -> str:
    return f"neighbour replace {_SUBNET}.{number} lladdr {mac or _mac(number)} dev eth0 nud permanent"


def _namespace() -> int:
    """A new network namespace, held open."""

    def make() -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET):
            raise NetworkError(f"the kernel makes no network namespace: {os.strerror(ctypes.get_errno())}")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    # A namespace belongs to a thread; this one ends, and the caller stays where it was.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def _ip(namespace: str | None, *commands: str) -> None:
    argv = ["ip", "-batch", "-"]
    if namespace is not None:
        argv = inside(namespace, None, signal.SIGKILL, argv)
    done = subprocess.run(argv, input="\n".join(commands) + "\n", text=True, capture_output=True, check=False)
    if done.returncode:
        raise NetworkError(f"ip refuses {'; '.join(commands)}: {done.stderr.strip()}")
