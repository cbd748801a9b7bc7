"""Every public error derives from the one root and survives pickling, as it must on its way through Celery."""

from __future__ import annotations

import inspect
import pickle
import pkgutil
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import llmteam
from llmteam.errors import LLMTeamError

#: A value for each annotation that an error's constructor may have.
SAMPLES: dict[Any, Any] = {
    str: "text",
    int: 3,
    float: 1.5,
    bool: True,
    bytes: b"bytes",
    Path: Path("a/file"),
    datetime: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    timedelta: timedelta(seconds=6),
    BaseException: ValueError("cause"),
    Exception: ValueError("cause"),
    inspect.Parameter.empty: "text",
    Any: "text",
    type(None): None,
}


#: Modules that act when they are imported: the application and the resources of a configured worker.
ACTING = {"llmteam.tasks.celery", "llmteam.examples.ticket_triage.worker"}


def modules() -> Iterator[types.ModuleType]:
    for found in pkgutil.walk_packages(llmteam.__path__, "llmteam."):
        if found.name not in ACTING and ".migrations" not in found.name and not found.name.endswith("__main__"):
            yield import_module(found.name)


def public_errors() -> list[type[BaseException]]:
    errors = {
        value
        for module in modules()
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, BaseException)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    return sorted(errors, key=lambda error: (error.__module__, error.__qualname__))


def sample(kind: Any) -> Any:
    if kind in SAMPLES:
        return SAMPLES[kind]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return args[0]
    if origin in (typing.Union, types.UnionType):
        return sample(args[0])
    if origin in (list, set, frozenset, Collection, Iterable, Sequence) or kind in (list, set, frozenset):
        return [sample(args[0] if args else str)]
    if origin is tuple:
        return tuple(sample(arg) for arg in args if arg is not Ellipsis)
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        return {"key": sample(args[1] if args else str)}
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return next(iter(kind))
    if inspect.isclass(kind):
        return kind(*arguments(kind)[0], **arguments(kind)[1])
    raise TypeError(f"no sample for {kind!r}: add one to SAMPLES")


def arguments(cls: type) -> tuple[list[Any], dict[str, Any]]:
    """Arguments for ``cls``: each required parameter gets a sample, optional ones stay out."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional.append("text")
        elif parameter.default is not parameter.empty or parameter.kind is parameter.VAR_KEYWORD:
            continue
        elif parameter.kind is parameter.KEYWORD_ONLY:
            keywords[name] = sample(annotation(cls, parameter))
        else:
            positional.append(sample(annotation(cls, parameter)))
    return positional, keywords


def annotation(cls: type, parameter: inspect.Parameter) -> Any:
    """The parameter's type, looked up where its constructor was written."""
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    return eval(parameter.annotation, vars(import_module(owner.__module__)))


def facts(error: BaseException) -> dict[str, Any]:
    """What an error tells, with nested errors as their text, since those compare by identity."""
    return {name: str(value) if isinstance(value, BaseException) else value for name, value in vars(error).items()}


@pytest.mark.parametrize("cls", public_errors(), ids=lambda cls: f"{cls.__module__}.{cls.__qualname__}")
def test_a_public_error_derives_from_the_root_and_survives_pickling(cls: type[BaseException]) -> None:
    assert issubclass(cls, LLMTeamError)
    positional, keywords = arguments(cls)
    error = cls(*positional, **keywords)

    again = pickle.loads(pickle.dumps(error))

    assert type(again) is cls
    assert str(again) == str(error)
    assert str(again).strip()
    assert "[Errno" not in str(again), "an OSError among the bases has read the arguments its own way"
    del error._call, again._call
    assert facts(again) == facts(error)


def test_errors_were_found() -> None:
    assert LLMTeamError in public_errors()
    assert len(public_errors()) >= 20
