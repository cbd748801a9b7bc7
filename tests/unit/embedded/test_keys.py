"""The key that a home makes for itself."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmteam.embedded import EmbeddedPlaceError, home_key


def test_a_home_has_one_key_and_keeps_it_for_this_user_alone(tmp_path: Path) -> None:
    first = home_key(tmp_path)

    assert home_key(tmp_path) == first
    assert len(first) >= 32
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_homes_have_two_keys(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    assert home_key(tmp_path / "a") != home_key(tmp_path / "b")


def test_those_who_ask_at_once_get_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(home_key, [tmp_path] * 64))

    assert len(keys) == 1


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    home_key(tmp_path)
    (tmp_path / "web.key").chmod(0o644)

    with pytest.raises(EmbeddedPlaceError, match="can be read by others"):
        home_key(tmp_path)


def test_a_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "web.key").touch(0o600)

    with pytest.raises(EmbeddedPlaceError, match="holds no key"):
        home_key(tmp_path)
