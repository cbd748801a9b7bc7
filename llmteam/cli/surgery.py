"""``llmteam runs pause|resume|retry|fork``: stop a run and go on, or go on from it in a new one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from llmteam.canvas.phrases import count
from llmteam.cli import codes, documents
from llmteam.cli.options import by_option, json_option, tenant_option
from llmteam.cli.render import print_json, say
from llmteam.cli.runs import opened_runs

if TYPE_CHECKING:
    from llmteam.canvas.surgery import Plan

#: Steps that a list on a terminal shows at most.
_SHOWN = 20

_yes_option = click.option("--yes", is_flag=True, help="Do not ask before effects outside are repeated.")
_dry_option = click.option("--dry-run", is_flag=True, help="Only tell what would be taken over, run and repeated.")
_new_id_option = click.option("--run-id", "new_run_id", metavar="ID", help="The new run's id; a fresh one by default.")


@click.command(short_help="Pause a run; its timers stand still.")
@click.argument("run_id", metavar="RUN")
@tenant_option
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="What running steps get to finish; what still runs then is repeated after the resume.",
)
@by_option
@json_option
def pause(run_id: str, tenant: str, grace: float, by: str, as_json: bool) -> None:
    """Pause a run: nothing new begins, all its timers stand still. Prints the id of its snapshot."""
    with opened_runs() as known:
        known.record(tenant, run_id)
        snapshot_id = known.surgery.pause(tenant, run_id, grace, by=by)
        status = known.record(tenant, run_id).status.value
    if as_json:
        print_json({"run_id": run_id, "status": status, "snapshot_id": snapshot_id})
    elif snapshot_id is not None and status == "paused":
        click.echo(f"run {run_id} is paused, snapshot {snapshot_id}")
        say(f"go on: llmteam runs resume {run_id}")
    else:
        click.echo(f"run {run_id} is {status}: there is nothing to pause")
    sys.exit(codes.DONE if status == "paused" else codes.FAILED)


@click.command(short_help="Go on with a paused run.")
@click.argument("name", metavar="RUN|SNAPSHOT")
@tenant_option
@by_option
@json_option
def resume(name: str, tenant: str, by: str, as_json: bool) -> None:
    """Go on with a paused run. A snapshot that is not of its current pause is refused."""
    with opened_runs() as known:
        run_id = known.surgery.resume(tenant, name, by=by)
        status = known.record(tenant, run_id).status.value
    if as_json:
        print_json({"run_id": run_id, "status": status, "resumed_from": name})
    else:
        click.echo(f"run {run_id} goes on")


@click.command(short_help="Go on from what failed, in a new run.")
@click.argument("run_id", metavar="RUN")
@tenant_option
@_new_id_option
@click.option("--new-keys", is_flag=True, help="Give steps new idempotency keys, so that services do things again.")
@_yes_option
@_dry_option
@by_option
@json_option
def retry(
    run_id: str, tenant: str, new_run_id: str | None, new_keys: bool, yes: bool, dry_run: bool, by: str, as_json: bool
) -> None:
    """Start a new run that takes over what a failed one finished and goes on from what failed.

    Lists what would be repeated outside and asks first. The old run stays as it is.
    """
    with opened_runs() as known:
        plan = known.surgery.plan_retry(tenant, run_id, new_keys=new_keys)
        made = None
        if _agreed(plan, yes=yes, dry_run=dry_run, as_json=as_json):
            made = known.surgery.retry(tenant, run_id, new_run_id=new_run_id, new_keys=new_keys, by=by)
    _tell(plan, made, as_json)


@click.command(short_help="Go on from any step, in a new run.")
@click.argument("run_id", metavar="RUN")
@click.option("--from", "start", required=True, metavar="STEP[#VISIT]", help="The step that the new run begins with.")
@click.option("--input", "input_text", metavar="JSON|@FILE|-", help="What that step gets instead of its input.")
@click.option(
    "--state",
    "state_text",
    metavar="JSON|@FILE",
    help="Answers of earlier steps to replace, by step id; what depends on them runs again too.",
)
@tenant_option
@_new_id_option
@_yes_option
@_dry_option
@by_option
@json_option
def fork(
    run_id: str,
    start: str,
    input_text: str | None,
    state_text: str | None,
    tenant: str,
    new_run_id: str | None,
    yes: bool,
    dry_run: bool,
    by: str,
    as_json: bool,
) -> None:
    """Start a new run that goes on from one step of a run that is over, with edited input or state.

    Lists what would be repeated outside and asks first. The old run stays as it is; idempotency keys are new.
    """
    step_id, visit = _step(start)
    given = documents.read_input(input_text)
    state = documents.read_input(state_text)
    if state is not None and not isinstance(state, dict):
        raise click.UsageError("--state: an object is needed, with an answer for each step id")
    with opened_runs() as known:
        plan = known.surgery.plan_fork(tenant, run_id, step_id, visit, edited=tuple(state or ()))
        made = None
        if _agreed(plan, yes=yes, dry_run=dry_run, as_json=as_json):
            made = known.surgery.fork(
                tenant, run_id, step_id, visit, given=given, state=state, new_run_id=new_run_id, by=by
            )
    _tell(plan, made, as_json)


def _step(text: str) -> tuple[str, int | None]:
    step_id, mark, visit = text.partition("#")
    if mark and not visit.isdigit():
        raise click.UsageError(f"--from: {visit!r} is no visit: write STEP, or STEP#2 for its second visit")
    return step_id, int(visit) if mark else None


def _agreed(plan: Plan, *, yes: bool, dry_run: bool, as_json: bool) -> bool:
    """Tell what would happen, and ask where something outside would be repeated."""
    if not as_json:
        say(
            f"takes over {count(len(plan.reused), 'finished step')}, "
            f"runs {count(len(plan.again), 'step')} again that had begun"
        )
        for effect in plan.effects[:_SHOWN]:
            key = "with the same idempotency key" if effect.same_key else "with a new idempotency key"
            say(f"  repeats {effect.step_id}: {effect.what}, {key}")
        if len(plan.effects) > _SHOWN:
            say(f"  and {count(len(plan.effects) - _SHOWN, 'more effect')}")
    if dry_run:
        return False
    if not plan.effects or yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"{count(len(plan.effects), 'effect')} outside would be repeated: look with --dry-run, agree with --yes"
        )
    click.confirm("Go on?", abort=True, err=True)
    return True


def _tell(plan: Plan, made: str | None, as_json: bool) -> None:
    if as_json:
        print_json(_document(plan, made))
    elif made is not None:
        click.echo(f"run {made} is a {plan.kind} of {plan.record.run_id}")
        say(f"look: llmteam runs show {made}")


def _document(plan: Plan, made: str | None) -> dict[str, Any]:
    return {
        "run_id": made,
        "link": plan.kind,
        "parent_run_id": plan.record.run_id,
        "reused": [f"{row.step_id}#{row.visit}" for row in plan.reused],
        "again": [f"{row.step_id}#{row.visit}" for row in plan.again],
        "effects": [
            {
                "step_id": effect.step_id,
                "visit": effect.visit,
                "what": effect.what,
                "same_idempotency_key": effect.same_key,
            }
            for effect in plan.effects
        ],
    }
