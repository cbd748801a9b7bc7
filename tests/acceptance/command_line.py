"""The command line as another process runs it, in a folder and with settings of the test's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from tests.embedding import PYTHONPATH, lives
from tests.forking import fork_server
from tests.waiting import wait_until

DONE, FAILED, USAGE, UNREACHABLE = range(4)

#: Users' step types: `pid` says who ran it, `hold` runs until a file is there, `broken` fails.
STEPS = """
import logging, os, pathlib, time
from llmteam.canvas import step_type

@step_type("pid")
def pid(ctx, config, data):
    logging.getLogger("shop").info("asked")
    return os.getpid()

@step_type("hold")
def hold(ctx, config, data):
    path = pathlib.Path(config["until"])
    path.with_suffix(".began").touch()
    while not path.exists() and not ctx.cancelled.is_set():
        time.sleep(0.02)
    return "held"

@step_type("broken")
def broken(ctx, config, data):
    raise ValueError("it is broken")
"""


def argv_of(process: psutil.Process) -> list[str]:
    """Its arguments; none when it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


class CommandLine:
    """``llmteam`` in ``folder``; ``env`` are its settings beside those of the machine."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = os.environ | PYTHONPATH | {"LLMTEAM_HOME": str(folder / "home")} | env
        (folder / "steps_of_tests.py").write_text(STEPS)

    def argv(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-P", "-m", "llmteam.cli.main", *map(str, arguments)]

    def __call__(
        self, *arguments: str | Path, stdin: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; forked, unless the modules come from elsewhere."""
        whole = self.env | env
        if whole["PYTHONPATH"] != PYTHONPATH["PYTHONPATH"]:
            return subprocess.run(
                self.argv(*arguments),
                cwd=self.folder,
                env=whole,
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
            )
        words = [str(one) for one in arguments]
        return fork_server().run(words, cwd=self.folder, env=whole, stdin=stdin, timeout=50)

    def json(self, *arguments: str | Path) -> Any:
        """What a command that succeeds writes with ``--json``."""
        done = self(*arguments, "--json")
        assert done.returncode == DONE, done.stderr
        return json.loads(done.stdout)

    def segment(self, name: str, *steps: tuple[str, dict[str, Any]], **fields: Any) -> Path:
        """A file with a chain of steps, each a type and its configuration."""
        ids = [f"step_{number}" for number in range(1, len(steps) + 1)]
        document = {
            "segment_id": name,
            "name": name,
            "steps": [
                {"step_id": step_id, "step_type": kind, "config": config}
                for step_id, (kind, config) in zip(ids, steps, strict=True)
            ],
            "edges": [{"source_step": one, "target_step": two} for one, two in pairwise(ids)],
            **fields,
        }
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(document))
        return path

    def hello(self) -> Path:
        return self.segment("hello", ("transform", {"expression": "'hello ' + name"}))

    @contextmanager
    def started(self, *arguments: str | Path, **env: str) -> Iterator[Started]:
        """Run beside the test; ended at the end, with everything that it started."""
        with Started(self, arguments, env) as process:
            yield process


class Started:
    """A command that runs beside the test. What it writes, both streams in one, is in ``output()``."""

    def __init__(self, line: CommandLine, arguments: tuple[str | Path, ...], env: dict[str, str]) -> None:
        self._log = line.folder / f"output-{len(list(line.folder.glob('output-*')))}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                line.argv(*arguments),
                cwd=line.folder,
                env=line.env | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.family: list[psutil.Process] = []

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        self.process.kill()
        self.process.wait()
        for one in self.family:
            with contextlib.suppress(psutil.Error):
                one.kill()
        # While one dies, the broker may still hand it a message.
        psutil.wait_procs(self.family, timeout=10)

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def look(self) -> list[psutil.Process]:
        """Its descendants that live; remembered, for afterwards they have another parent."""
        with contextlib.suppress(psutil.Error):
            self.family = list({*self.family, *psutil.Process(self.process.pid).children(recursive=True)})
        return [one for one in self.family if lives(one)]

    def wait_for(self, text: str, timeout: float = 30.0) -> str:
        """Wait until it has written ``text``."""

        def written() -> bool:
            assert text in self.output() or self.process.poll() is None, f"it ended: {self.output()}"
            return text in self.output()

        try:
            wait_until(written, f"{text!r} in the output", timeout=timeout)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.output()}") from None
        return self.output()

    def end(self, number: signal.Signals, timeout: float = 20.0) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.look()
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def wait_until_gone(self) -> None:
        """Wait until nothing of it lives."""
        wait_until(lambda: not [one for one in self.family if lives(one)], "its processes to be gone", timeout=20.0)
