"""The short form of the trial of cuts: hosts are cut off in the middle of steps and work again once they are joined."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench.servers import ROOT
from chaos.checks import CHECKS
from chaos.trial import RULES_BROKEN
from hosts.network import Kind
from hosts.trial import ENDED, KEPT, NOT_BACK, TOO_FAST
from tests.embedding import short_folder

#: Servers and three services are started, cut off for seconds, and given time to recover.
SECONDS = 240
#: In CI a trial is the same every time; at home each one looks somewhere else, and prints where.
SEED = ("--seed", "1") if os.environ.get("CI") else ()


@pytest.mark.timeout(SECONDS)
def test_hosts_that_are_cut_off_lose_and_double_nothing_and_work_again_by_themselves_when_they_are_joined() -> None:
    with short_folder() as folder:
        target = folder / "figures.json"

        done = subprocess.run(
            [sys.executable, "-m", "hosts", "--quick", *SEED, "--json", str(target)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=SECONDS - 10,
            check=False,
        )

        assert done.returncode == 0, done.stdout + done.stderr
        document = json.loads(target.read_text())
        target.unlink()
        assert list(folder.iterdir()) == []
    checked = [*CHECKS, RULES_BROKEN, NOT_BACK, ENDED, TOO_FAST, KEPT]
    assert document["must_be_zero"] == dict.fromkeys(checked, 0)
    assert document["figures"]["ended as expected"] == document["figures"]["runs started"] >= 20
    apart, half = document["cuts"]
    assert (apart["kind"], half["kind"]) == (Kind.APART.word, Kind.NO_VALKEY.word)
    assert apart["lost"] >= 1, "no lease ran out: the cut was not in the middle of a step"
    assert apart["late"] >= 1, "no late result came: fencing was not tried"
    assert f"hosts are {document['network']}; seed {document['seed']}" in done.stdout
