"""The key that a home makes for itself."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmteam.embedded import EmbeddedPlaceError, home_key, home_master_key


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


def test_the_master_key_of_a_home_is_made_once_by_many_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(home_master_key, [tmp_path] * 64))

    ((key_id, raw),) = keys
    assert (key_id, len(raw)) == ("home", 32)
    assert (tmp_path / "encryption.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["encryption.key"]


def test_a_master_key_that_others_can_read_is_refused_without_advice_to_delete_it(tmp_path: Path) -> None:
    home_master_key(tmp_path)
    (tmp_path / "encryption.key").chmod(0o640)

    with pytest.raises(EmbeddedPlaceError, match="can be read by others: chmod 600"):
        home_master_key(tmp_path)


@pytest.mark.parametrize("text", ["", "x" * 44, "A" * 64])
def test_a_file_without_a_master_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "encryption.key"
    path.touch(0o600)
    path.write_text(text)

    with pytest.raises(EmbeddedPlaceError, match="holds no key"):
        home_master_key(tmp_path)
