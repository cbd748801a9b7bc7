"""The command group: what there is, and how errors end it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import click

import llmteam
from llmteam.cli import codes
from llmteam.cli.audit import audit
from llmteam.cli.database import db
from llmteam.cli.doctor import doctor
from llmteam.cli.explain import explain
from llmteam.cli.inbox import inbox
from llmteam.cli.keys import keys
from llmteam.cli.license import licenses
from llmteam.cli.limits import limits
from llmteam.cli.mining import mining
from llmteam.cli.notifications import notifications
from llmteam.cli.render import fail, warn
from llmteam.cli.run import run
from llmteam.cli.runs import runs
from llmteam.cli.segments import catalog, segment
from llmteam.cli.services import beat_command, flower_command, up, worker
from llmteam.cli.snapshots import export_snapshot, import_snapshot, snapshots
from llmteam.cli.surgery import fork, pause, resume, retry
from llmteam.cli.tenants import tenants
from llmteam.errors import LLMTeamError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(llmteam.__version__, prog_name="llmteam")
def cli() -> None:
    """JSON workflow segments as durable, tenant-isolated runs on Celery, Redis and Postgres.

    Settings are LLMTEAM_* variables; `llmteam doctor` shows and checks them. Exit codes: 0 done, 1 the run or check
    failed, 2 wrong usage or invalid segment, 3 a server cannot be reached, 128 and more ended by a signal.
    """


_COMMANDS = (
    run,
    up,
    worker,
    beat_command,
    flower_command,
    runs,
    explain,
    inbox,
    segment,
    catalog,
    audit,
    keys,
    limits,
    mining,
    inbox,
    notifications,
    tenants,
    licenses,
    db,
    doctor,
)
for _command in _COMMANDS:
    cli.add_command(_command)
for _command in (pause, resume, retry, fork, snapshots, export_snapshot, import_snapshot):
    runs.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. Errors become one message on standard error."""
    _quiet_logging()
    try:
        result = cli.main(args=arguments, prog_name="llmteam", standalone_mode=False)
        code = result if isinstance(result, int) else codes.DONE
    except click.exceptions.Exit as exc:
        code = exc.exit_code
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted")
        code = codes.code_of_signal(2)
    except BrokenPipeError:
        # Whoever read our output has had enough. The interpreter must not complain while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = codes.DONE
    except LLMTeamError as exc:
        code = _report(exc)
    except Exception as exc:  # noqa: BLE001  # the last one: people get a sentence, not a traceback
        code = _unexpected(exc)
    sys.exit(code)


def _report(exc: LLMTeamError) -> int:
    if _is_debugging():
        logging.getLogger(__name__).debug("the error in full", exc_info=exc)
    fail(str(exc))
    return getattr(exc, "exit_code", None) or codes.code_of(exc)


def _unexpected(exc: Exception) -> int:
    if _is_debugging():
        raise exc
    fail(f"unexpected {type(exc).__name__}: {exc}; LLMTEAM_LOG_LEVEL=DEBUG shows where; this is a bug in llmteam")
    return codes.FAILED


def _is_debugging() -> bool:
    return os.environ.get("LLMTEAM_LOG_LEVEL", "").upper() == "DEBUG"


class _ToTerminal(logging.Handler):
    """Warnings of libraries in the words of the command line; all of it when debugging."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            fail(text)
        elif record.levelno >= logging.WARNING:
            warn(text)
        else:
            click.echo(text, err=True)


def _quiet_logging() -> None:
    logging.basicConfig(level=logging.DEBUG if _is_debugging() else logging.WARNING, handlers=[_ToTerminal()])


if __name__ == "__main__":
    main()
