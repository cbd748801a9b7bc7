"""What the processes of one supervisor counted, as one page for Prometheus.

Each process writes a file of its own in a common folder (prometheus_client's multiprocess mode). What the processes
that ended have counted is added up in one file, so that counters never fall and files do not become more and more.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import struct
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llmteam
from llmteam.errors import LLMTeamError
from llmteam.ids import utc_now
from llmteam.metrics.instruments import MetricsNotInstalledError
from llmteam.metrics.models import BUILD_INFO, Metric

logger = logging.getLogger(__name__)

#: Tells prometheus_client where to write; it looks when it is imported.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Seconds between two looks for files of processes that ended, when nobody asks.
FOLD_SECONDS = 30.0
_PREFIX = "llmteam-metrics-"
#: Seconds that a folder without an owner must be old before it counts as left over.
_LEFT_OVER_SECONDS = 60.0
#: What a process has counted; gauges are those of users, whose modes say what becomes of them.
_COUNTED = re.compile(r"(counter|histogram|summary)_(\d+)\.db")
_ANY = re.compile(r"\w+_(\d+)\.db")
#: What a file may raise that is being made, or that its process left unfinished.
_BROKEN = (RuntimeError, ValueError, OSError, struct.error)
_TRIES = 5


class ExpositionError(LLMTeamError, RuntimeError):
    """What was counted cannot be read right now."""

    retryable = True


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for the block, in which the processes of this one count; removed at the end.

    Those of supervisors that were killed are removed too: the lock on a folder tells whether somebody has it, also to
    programs that clean up temporary files.
    """
    _remove_left_overs()
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(held)
        shutil.rmtree(path, ignore_errors=True)


def _remove_left_overs() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_uid != os.geteuid() or utc_now().timestamp() - found.st_mtime < _LEFT_OVER_SECONDS:
                continue
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(held)


class Exposition:
    """The page of a folder. For many threads, in one process. Raises :class:`MetricsNotInstalledError`."""

    def __init__(self, path: Path) -> None:
        check_installed()
        self._path = path
        self._lock = threading.Lock()

    def page(self) -> bytes:
        """All that was counted, in Prometheus' text format. Raises :class:`ExpositionError`."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        for left in reversed(range(_TRIES)):
            try:
                self.fold()
                with self._lock:
                    registry = CollectorRegistry()
                    MultiProcessCollector(registry, path=str(self._path))  # type: ignore[no-untyped-call]
                    return generate_latest(registry) + build_page()
            except _BROKEN as exc:
                if not left:
                    raise ExpositionError(f"the metrics in {self._path} cannot be read: {exc}") from exc
                # A process has just made its file, and not written into it yet.
                time.sleep(0.05)
        raise AssertionError

    def fold(self) -> int:
        """Add what ended processes counted to the file of all of them; how many files that were."""
        with self._lock:
            dead = [path for path in self._path.glob("*.db") if _is_dead(path)]
            for pid in {_ANY.fullmatch(path.name)[1] for path in dead}:  # type: ignore[index]
                _mark_dead(pid, self._path)
            counted = [path for path in dead if _COUNTED.fullmatch(path.name)]
            for kind in {path.name.partition("_")[0] for path in counted}:
                self._add(kind, [path for path in counted if path.name.startswith(f"{kind}_")])
            return len(counted)

    def _add(self, kind: str, files: Sequence[Path]) -> None:
        from prometheus_client.mmap_dict import MmapedDict

        # No process has the number 0.
        whole = self._path / f"{kind}_0.db"
        sums: dict[str, float] = defaultdict(float)
        for path in [*([whole] if whole.exists() else []), *files]:
            for key, value in _values(path):
                sums[key] += value
        unfinished = self._path / f"{kind}.unfinished"
        unfinished.unlink(missing_ok=True)
        written = MmapedDict(str(unfinished))  # type: ignore[no-untyped-call]
        for key, value in sums.items():
            written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
        written.close()  # type: ignore[no-untyped-call]
        unfinished.replace(whole)
        for path in files:
            path.unlink(missing_ok=True)

    @contextmanager
    def folding(self, seconds: float = FOLD_SECONDS) -> Iterator[None]:
        """Look after the files for the block although nobody asks for the page."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(seconds):
                try:
                    self.fold()
                except _BROKEN as exc:
                    logger.warning("metrics of processes that ended could not be added up (%s)", exc)

        thread = threading.Thread(target=work, name="llmteam-metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _values(path: Path) -> list[tuple[str, float]]:
    """What a file holds; nothing when its process was killed while it made it."""
    from prometheus_client.mmap_dict import MmapedDict

    try:
        found = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        return [(key, value) for key, value, *_ in found]
    except _BROKEN as exc:
        logger.warning("the metrics in %s cannot be read (%s); they are left out", path.name, exc)
        return []


def _is_dead(path: Path) -> bool:
    match = _ANY.fullmatch(path.name)
    if match is None or not int(match[1]):
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return _is_zombie(match[1])


def _is_zombie(pid: str) -> bool:
    """Whether it has ended, and its parent has not asked how; known on Linux only."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in "ZX"


def _mark_dead(pid: str, path: Path) -> None:
    """Have gauges of users forgotten that speak of living processes only."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, str(path))  # type: ignore[no-untyped-call]


#: A metric with its samples: values of the labels, and the value.
Samples = tuple[Metric, Iterable[tuple[tuple[str, ...], float]]]


def gauges_page(gauges: Iterable[Samples]) -> bytes:
    """Gauges in Prometheus' text format. Raises :class:`MetricsNotInstalledError`."""
    check_installed()
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily

    class _Given:
        def collect(self) -> Iterator[GaugeMetricFamily]:
            for metric, samples in gauges:
                family = GaugeMetricFamily(metric.name, metric.help, labels=metric.label_names)
                for labels, value in samples:
                    family.add_metric(labels, value)
                yield family

    registry = CollectorRegistry()
    registry.register(_Given())
    return generate_latest(registry)


def build_page() -> bytes:
    """Which version answers."""
    return gauges_page([(BUILD_INFO, [((llmteam.__version__,), 1.0)])])


def check_installed() -> None:
    """Raise :class:`MetricsNotInstalledError` unless prometheus_client is there."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise MetricsNotInstalledError from None
