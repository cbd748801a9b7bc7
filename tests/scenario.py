"""A document played as its reader would: every block in order, in one empty folder, with one environment.

An HTML comment right before a block says how it is meant; without one, ``bash`` and ``python`` are run and must
succeed, ``json`` is checked as the part of a segment that it looks like. What ``bash`` exports holds from then on.

- ``file: NAME``: the reader saves it under this name.
- ``output``: what the block before printed; ``…`` stands for anything.
- ``start: until TEXT``: it runs for ever; started, waited for until it says TEXT, and stopped at the end.
- ``in the checkout``: run in the project's own folder.
- ``elsewhere: WHERE``: another test runs it. ``not run: REASON``: nobody does.
- ``servers``: from here on, the environment names a Postgres and a Valkey.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmteam.canvas import EdgeDefinition, SegmentDefinition, StepCatalog, StepDefinition, validate_segment_dict
from tests.blocks import Block, blocks_of
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]

#: Seconds that one block may take.
SECONDS = 120
#: Comments that belong to tables and are none of ours.
_OTHER = re.compile(r"types|codes|packages|settings|commands|exits|calls")


class Scenario:
    """One reader. ``servers`` gives the variables that name servers, when a document asks for them.

    Blocks that end find the programs of a folder first, what is started for ever does not.
    """

    def __init__(self, folder: Path, servers: Callable[[], Mapping[str, str]], programs: Path | None = None) -> None:
        self.folder = folder
        self._programs = programs
        self._servers = servers
        bin_folder = str(Path(sys.executable).parent)
        path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "COLUMNS": "120"}
        self._printed: str | None = None
        self._started: list[tuple[Block, subprocess.Popen[bytes]]] = []

    def play(self, document: Path) -> None:
        """Every block, in order. An assertion names the block that fails."""
        for block in blocks_of(document):
            self._take(block)

    def stop(self) -> None:
        """End what was started, the latest first; each must end when it is asked to."""
        while self._started:
            block, process = self._started.pop()
            if process.poll() is not None:
                continue
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"{block.where}: does not end on Ctrl-C\n{self._log(process)}") from None

    def _take(self, block: Block) -> None:
        match block.comment.split(":")[0].strip():
            case "not run" | "elsewhere":
                assert block.comment.partition(":")[2].strip(), f"{block.where}: say why"
            case "file":
                self._save(block, block.comment.partition(":")[2].strip())
            case "output":
                self._compare(block)
            case "start":
                self._start(block, block.comment.partition("until")[2].strip())
            case "in the checkout":
                self._run(block, cwd=ROOT, more={"LLMTEAM_HOME": str(self.folder / "home"), "VENV": sys.prefix})
            case "servers":
                self.environment.update(self._servers())
                self._run(block)
            case "":
                self._run(block)
            case unknown:
                assert _OTHER.fullmatch(unknown), f"{block.where}: unknown comment {unknown!r}"
                self._run(block)

    def _save(self, block: Block, name: str) -> None:
        if block.language == "json":
            check_json(block)
        if block.language == "python":
            compile(block.text, block.where, "exec")
        (self.folder / name).write_text(block.text, encoding="utf-8")

    def _run(self, block: Block, cwd: Path | None = None, more: Mapping[str, str] | None = None) -> None:
        match block.language:
            case "bash":
                command = ["bash", "-euo", "pipefail", "-c", f'{block.text}env -0 >"$SCENARIO_EXPORTS"']
            case "python":
                command = [sys.executable, "-W", "error", "-"]
            case "json":
                check_json(block)
                return
            case "mermaid":
                assert re.match(r"(flowchart (TD|LR)|stateDiagram-v2)\n", block.text), block.where
                return
            case language:
                raise AssertionError(f"{block.where}: what is a reader to do with a block of {language or 'nothing'}?")
        exports = self.folder / ".exports"
        environment = {**self.environment, **(more or {}), "SCENARIO_EXPORTS": str(exports)}
        if self._programs is not None:
            environment["PATH"] = f"{self._programs}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            command,
            input=block.text if block.language == "python" else None,
            cwd=cwd or self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block.where}: {block.text}\n{done.stdout}\n{done.stderr}"
        self._printed = done.stdout
        if block.language == "bash" and cwd is None:
            pairs = (pair.partition("=") for pair in exports.read_text().split("\0") if pair)
            self.environment = {name: value for name, _, value in pairs}
            self.environment["PATH"] = self.environment["PATH"].removeprefix(f"{self._programs}{os.pathsep}")

    def _compare(self, block: Block) -> None:
        assert self._printed is not None, f"{block.where}: nothing has printed this"
        if block.language == "json":
            assert matches(json.loads(block.text), json.loads(self._printed)), f"{block.where}:\n{self._printed}"
            return
        pattern = ".*".join(re.escape(piece) for piece in block.text.strip().split("…"))
        assert re.fullmatch(pattern, self._printed.strip(), re.DOTALL), f"{block.where}:\n{self._printed}"

    def _start(self, block: Block, text: str) -> None:
        log = self.folder / f"started-{len(self._started)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", f"exec {block.text}"],
                cwd=self.folder,
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append((block, process))

        def says() -> bool:
            said = log.read_text(errors="replace")
            assert process.poll() is None or text in said, f"{block.where}: ended with {process.returncode}\n{said}"
            return text in said

        try:
            wait_until(says, f"{block.where} to say {text!r}", timeout=SECONDS)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{log.read_text(errors='replace')}") from None

    def _log(self, process: subprocess.Popen[bytes]) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("started-*.log")))


@contextmanager
def scenario(servers: Callable[[], Mapping[str, str]], programs: Path | None = None) -> Iterator[Scenario]:
    """A scenario in a folder that the user of the embedded servers can enter."""
    folder = Path(tempfile.mkdtemp(prefix="llmteam-docs-"))
    folder.chmod(0o755)
    reader = Scenario(folder, servers, programs)
    try:
        yield reader
    finally:
        try:
            reader.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_json(block: Block) -> None:
    """A segment, step or edge must be sound; anything else must be JSON. Types of the reader's own are unknown here."""
    document = json.loads(block.text)
    if not isinstance(document, dict):
        return
    if "steps" in document:
        result = validate_segment_dict(document)
        SegmentDefinition.from_dict(document)
        faults: list[Any] = [message for message in result.messages if message.code != "UNKNOWN_TYPE"]
    elif "step_type" in document:
        step = StepDefinition.from_dict(document)
        faults = [*step.validate(), *StepCatalog.get_instance().validate_step_config(step.step_type, step.config)]
    elif "source_step" in document:
        faults = EdgeDefinition.from_dict(document).validate()
    else:
        faults = []
    assert not faults, f"{block.where}: {faults}"


def matches(expected: Any, found: Any) -> bool:
    """Whether ``found`` is what ``expected`` says, ``"…"`` standing for any value."""
    if expected == "…":
        return True
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(matches(expected[key], found[key]) for key in expected)
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(matches, expected, found))
    return bool(expected == found)
