"""Commands that need no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmteam.cli.main import main
from tests.acceptance.command_line import DONE, USAGE


def llmteam(*arguments: str | Path) -> int:
    """Run a command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture
def segment(tmp_path: Path):
    """Writes a document to a file."""

    def write(document: object) -> Path:
        path = tmp_path / "segment.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


SOUND = {"segment_id": "sound", "name": "sound", "steps": [{"step_id": "a", "step_type": "transform"}]}
UNSOUND = {
    "segment_id": "unsound",
    "name": "unsound",
    "steps": [{"step_id": "a", "step_type": "trnsform"}, {"step_id": "a", "step_type": "condition", "config": {}}],
    "edges": [{"source_step": "a", "target_step": "z"}],
}


def test_a_sound_segment_validates(segment, capsys: pytest.CaptureFixture[str]) -> None:
    assert llmteam("segment", "validate", segment(SOUND)) == DONE
    assert "valid (0 errors" in capsys.readouterr().out


def test_every_problem_is_shown_with_code_place_and_suggestion(segment, capsys: pytest.CaptureFixture[str]) -> None:
    assert llmteam("segment", "validate", segment(UNSOUND)) == USAGE

    shown = capsys.readouterr().out
    assert "error UNKNOWN_TYPE at steps[0].step_type" in shown
    assert "did you mean 'transform'?" in shown
    assert "error DUPLICATE_ID at steps[0].step_id" in shown
    assert "error INVALID_REFERENCE at edges[0].target_step" in shown


def test_problems_are_json_too(segment, capsys: pytest.CaptureFixture[str]) -> None:
    assert llmteam("segment", "validate", segment(UNSOUND), "--json") == USAGE

    found = json.loads(capsys.readouterr().out)
    assert found["is_valid"] is False
    assert {"UNKNOWN_TYPE", "DUPLICATE_ID"} <= {message["code"] for message in found["messages"]}


@pytest.mark.parametrize("command", [("segment", "validate"), ("run",)])
def test_malformed_json_is_shown_with_line_and_column(
    command: tuple[str, ...], segment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert llmteam(*command, segment('{\n  "segment_id": "x",\n}')) == USAGE

    assert "line 3, column 1" in "".join(capsys.readouterr())


def test_an_unsound_segment_is_not_run_and_starts_nothing(
    segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMTEAM_HOME", str(tmp_path / "home"))

    assert llmteam("run", segment(UNSOUND)) == USAGE

    assert "error UNKNOWN_TYPE at steps[0].step_type" in capsys.readouterr().err
    assert not (tmp_path / "home" / "embedded").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run",), "name one segment"),
        (("run", "a.json", "--example", "ticket-triage"), "name one segment"),
        (("run", "missing.json"), "segment 'missing.json' cannot be read: No such file or directory"),
        (("run", "--example", "nothing"), "there is no example 'nothing'; there are: ticket-triage"),
        (("run", "-", "--input", "-"), "cannot both come from standard input"),
        (("runs", "list", "--status", "lost"), "there is no status 'lost'"),
        (("segment", "archive", "orders"), "orders@VERSION"),
        (("nonsense",), "No such command 'nonsense'"),
        (("catalog", "nothing"), "Unknown step type 'nothing'"),
        (("catalog", "--import", "no_such_module"), "module 'no_such_module' cannot be imported"),
    ],
)
def test_wrong_usage_is_said_in_one_message(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert llmteam(*arguments) == USAGE

    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{bad", "line 1, column 2: not JSON"),
        ("you", "(a text needs its quotes"),
        ("NaN", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("@missing.json", "input 'missing.json' cannot be read"),
    ],
)
def test_input_that_is_no_json_is_wrong_usage(
    text: str, said: str, segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMTEAM_HOME", str(tmp_path / "home"))

    assert llmteam("run", segment(SOUND), "--input", text) == USAGE

    assert said in capsys.readouterr().err
    assert not (tmp_path / "home" / "embedded").exists()


def test_a_wrong_setting_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMTEAM_LEASE_SECONDS", "soon")

    assert llmteam("runs", "list") == USAGE
    assert capsys.readouterr().err.startswith("error: LLMTEAM_LEASE_SECONDS is 'soon', but must be")


def test_the_schema_describes_the_configuration_of_every_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert llmteam("segment", "schema") == DONE

    schema = json.loads(capsys.readouterr().out)
    assert "http_action" in schema["$defs"]["StepDefinition"]["properties"]["step_type"]["examples"]


def test_the_catalog_lists_the_built_in_types_and_shows_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert llmteam("catalog", "--json") == DONE
    assert len(json.loads(capsys.readouterr().out)["types"]) >= 7
    assert llmteam("catalog", "http_action") == DONE
    assert "llmteam.io" in capsys.readouterr().out


def test_a_graph_of_a_file_needs_no_server(segment, capsys: pytest.CaptureFixture[str]) -> None:
    assert llmteam("segment", "graph", "--format", "mermaid", segment(SOUND)) == DONE
    assert capsys.readouterr().out.startswith("flowchart TD\n")


def test_roles_are_printed_for_a_named_login_without_a_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMTEAM_DATABASE_URL", "postgresql://shop:secret@db.invalid/x")

    assert llmteam("db", "upgrade", "--print-roles") == DONE

    shown = capsys.readouterr().out
    assert 'GRANT llmteam_app, llmteam_sweeper TO "shop" WITH INHERIT FALSE, SET TRUE' in shown
    assert 'GRANT llmteam_owner TO "shop_migration" WITH INHERIT FALSE, SET TRUE' in shown
    assert 'REVOKE llmteam_owner FROM "shop"' in shown
    assert "secret" not in shown


@pytest.mark.parametrize("arguments", [(), ("--migration-login", "d b@")])
def test_roles_are_printed_for_the_login_of_migrations(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMTEAM_DATABASE_URL", "postgresql://shop:secret@db.invalid/x")
    monkeypatch.setenv(
        "LLMTEAM_MIGRATION_URL", f"postgresql://{'d%20b%40' if not arguments else ''}:secret@db.invalid/x"
    )

    assert llmteam("db", "upgrade", "--print-roles", *arguments) == DONE

    shown = capsys.readouterr().out
    assert 'GRANT llmteam_owner TO "d b@" WITH INHERIT FALSE, SET TRUE' in shown
    assert "secret" not in shown


@pytest.mark.parametrize("arguments", [("--user", " "), ("--user", "x" * 256), ("--user", "a", "--group", "\t")])
def test_access_is_for_people_and_groups_with_names(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMTEAM_WEB_KEYS", "a key of the web inbox for tests of it")

    assert llmteam("inbox", "token", *arguments) == USAGE

    assert capsys.readouterr().out == ""
