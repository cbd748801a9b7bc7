"""Servers on a network of hosts leave nothing behind, also when whoever started them is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from bench.servers import ROOT
from hosts import servers
from hosts.forwarders import Forwarders
from tests.embedding import short_folder
from tests.waiting import wait_until

_SERVE = """
import time
from hosts.forwarders import Forwarders
from hosts.servers import serving
with serving(Forwarders(["host-1"])):
    print("serving", flush=True)
    time.sleep(600)
"""


def test_servers_end_with_a_harness_that_is_killed_and_the_next_one_removes_its_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with short_folder() as folder:
        argv, env = [sys.executable, "-c", _SERVE], {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        family = psutil.Process(process.pid).children(recursive=True)
        (left,) = folder.iterdir()

        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

        assert len(family) >= 2
        wait_until(lambda: not any(one.is_running() for one in family), "the servers to end", timeout=30)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with closing(Forwarders([])) as network, servers.serving(network) as serving:
            assert not left.exists()
            assert serving.home.is_relative_to(folder)
            with closing(Forwarders([])) as other, servers.serving(other):
                assert serving.home.exists(), "a folder in use was taken for one that was left"
        assert list(Path(folder).iterdir()) == []
