"""Step types that are given a canary, seal it, and then do with it what must not be done; workers import this module.

The canary stands in a file that a variable names, never in a segment, an input or a message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

from llmteam.canvas import StepCatalog, step_type
from llmteam.canvas.ports import Ask
from llmteam.human.models import InteractionRequest, InteractionType
from llmteam.runtime import FileSecrets, SecretAllowList, StepContext, default_manager

#: Names the folder in which the canary is, as a secret.
VARIABLE = "LLMTEAM_TEST_CANARY"
SECRET = "canary"
#: The number of a payment card, likewise.
CARD = "card-number"
#: Stands beside the canary wherever it is put, so that a search can show that it looks in the right places.
MARKER = "marker-of-the-canary"

#: What a step may do with the canary, with the end that its run has. Those in ``KILLS`` take their process along.
WAYS = {
    "tell_nobody": "completed",
    "raise": "failed",
    "raise_from": "failed",
    "raise_group": "failed",
    "raise_coded": "failed",
    "raise_long": "failed",
    "name_the_error": "failed",
    "exit": "failed",
    "return": "failed",
    "return_text": "failed",
    "return_key": "failed",
    "return_bytes": "failed",
    "state": "failed",
    "annotate": "failed",
    "ask": "failed",
    "log": "completed",
    "warn": "completed",
    "thread": "completed",
    "note": "completed",
    "late": "failed",
    "retry": "completed",
    "pickle": "failed",
    "other_step": "failed",
    "not_allowed": "failed",
}
KILLS = {"kill": "completed", "segfault": "completed"}


class CodedError(Exception):
    """Comes with a code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def careless(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """Seal the canary, read it again, then do what ``config["how"]`` says."""
    if ctx.step_id == "seal":
        with ctx.open_context() as context:
            context.set_sealed("card", ctx.get_secret(CARD))
            context.set_sealed("deep", {"list": [str(ctx.get_secret(SECRET))]})
            context.set_data("public", MARKER)
        return "sealed"
    with ctx.open_context() as context:
        if not context.has_sealed("card"):
            context.set_sealed("card", ctx.get_secret(CARD))
        card = context.get_sealed("card")
    return _misuse(ctx, config["how"], card)


async def careless_async(ctx: StepContext, config: dict[str, Any], input_data: Any) -> Any:
    """As :func:`careless`, on the loop."""
    async with ctx.open_context() as context:
        context.set_sealed("card", ctx.get_secret(CARD))
        card = context.get_sealed("card")
    if config["how"] == "late":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            logging.getLogger("canary").warning("%s stopped with %s", MARKER, card)
            raise ValueError(f"{MARKER} {card}") from None
    return _misuse(ctx, config["how"], card)


def _misuse(ctx: StepContext, how: str, card: str) -> Any:
    text = f"{MARKER} {card} {ctx.get_secret(SECRET)}"
    if how.startswith("raise") or how in ("name_the_error", "exit", "retry"):
        return _raise(ctx, how, text, card)
    if how.startswith("return"):
        return {"return": card, "return_text": {"x": [text]}, "return_key": {text: 1}, "return_bytes": text.encode()}[
            how
        ]
    return _put_somewhere(ctx, how, text, card)


def _raise(ctx: StepContext, how: str, text: str, card: str) -> Any:
    match how:
        case "raise_from":
            try:
                raise KeyError(text)
            except KeyError as exc:
                raise RuntimeError(f"again: {text}") from exc
        case "raise_group":
            raise ExceptionGroup(text, [ValueError(text), KeyError(text)])
        case "raise_coded":
            raise CodedError(text)
        case "raise_long":
            raise ValueError("x" * 1990 + text)
        case "name_the_error":
            raise type(f"Error{card}", (Exception,), {})(text)
        case "exit":
            raise SystemExit(text)
        case "retry" if ctx.attempt > 1:
            return MARKER
    raise ValueError(text)


def _put_somewhere(ctx: StepContext, how: str, text: str, card: str) -> Any:
    match how:
        case "ask":
            return _ask(text)
        case "kill" | "segfault":
            return _die(ctx, how)
        case "state":
            ctx.set_state("kept", {"deep": [text]})
        case "annotate":
            ctx.annotate("usage", text)
        case "note":
            _note(ctx, text)
        case "pickle":
            pickle.dumps({"card": card})
        case "other_step":
            _read_as_another(ctx)
        case "not_allowed":
            ctx.get_secret("forbidden")
        case "late":
            while not ctx.cancelled.wait(0.02):
                pass
            raise ValueError(text)
        case _:
            _say(how, text, card)
    return MARKER


def _say(how: str, text: str, card: str) -> None:
    match how:
        case "log":
            _log_it(text, card)
        case "warn":
            warnings.warn(text, stacklevel=1)
        case "thread":
            thread = threading.Thread(target=_fail, args=(text,))
            thread.start()
            thread.join()


def _note(ctx: StepContext, text: str) -> None:
    with ctx.open_context() as context:
        context.set_data("note", {"said": text, text: 1})
        context.add_reasoning_step(text)
        context.add_message({"text": [text]})
        context.update_status(text)


def _read_as_another(ctx: StepContext) -> None:
    """What code of another step could try that reaches around its context."""
    assert ctx.runtime.contexts is not None
    contexts = ctx.runtime.contexts
    views = contexts.tree(ctx.tenant_id, ctx.run_id, audit_trail=ctx.runtime.audit_trail).children
    other = views["seal"].secure_context
    assert other is not None
    other.get_sealed("card", "seal")


def _die(ctx: StepContext, how: str) -> str:
    """Take the process along, once."""
    died = Path(os.environ[VARIABLE]) / f"died-{ctx.run_id}"
    if not died.exists():
        died.touch()
        number = signal.SIGKILL if how == "kill" else signal.SIGSEGV
        signal.signal(number, signal.SIG_DFL) if how == "segfault" else None
        os.kill(os.getpid(), number)
        time.sleep(60)
    return MARKER


def _fail(text: str) -> NoReturn:
    raise ValueError(text)


def _log_it(text: str, card: str) -> None:
    log = logging.getLogger("canary")
    log.warning("%s is %s and %r in %s", MARKER, card, text, {"key": [text]})
    log.error(text)
    try:
        _fail(text)
    except ValueError:
        log.exception("a traceback with %s", text)


def _ask(text: str) -> Ask:
    now_empty: dict[str, Any] = dict.fromkeys(("request_id", "run_id", "pipeline_id", "agent_name", "step_name"), "")
    return Ask(
        InteractionRequest(
            **now_empty,
            tenant_id="",
            interaction_type=InteractionType.APPROVAL,
            title=f"Approve {text}",
            description=text,
            context_data={"text": text},
        )
    )


def register(catalog: StepCatalog | None = None) -> StepCatalog:
    """Make the types known to a catalog, by default that of the process; the catalog."""
    catalog = catalog or StepCatalog.get_instance()
    step_type("careless", catalog=catalog)(careless)
    step_type("careless_io", queue="llmteam.io", catalog=catalog)(careless_async)
    return catalog


register()
if VARIABLE in os.environ:
    default_manager().register_secrets_provider(
        FileSecrets(os.environ[VARIABLE]), allow=SecretAllowList({"*": {"*": [SECRET, CARD]}})
    )
