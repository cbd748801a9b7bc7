"""Calling functions of any kind from a coroutine, without keeping its loop from other work."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

#: Plain functions that one process calls at the same moment.
MAX_THREADS = 64

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


async def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What ``function`` gives back, awaited as long as it can be. A plain one runs in a thread, in this context."""
    if is_async(function):
        value = function(*args, **kwargs)
    else:
        context = copy_context()
        loop = asyncio.get_running_loop()
        value = await loop.run_in_executor(_pool(), lambda: context.run(function, *args, **kwargs))
    while inspect.isawaitable(value):
        value = await value
    return value


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def accepted(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``offered`` that ``function`` has a parameter for, by name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(offered)
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    return {name: value for name, value in offered.items() if name in named}


def _pool() -> ThreadPoolExecutor:
    """This process's threads; a forked child has none of its parent's."""
    pid = os.getpid()
    with _lock:
        if pid not in _pools:
            _pools.clear()
            _pools[pid] = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="llmteam-call")
        return _pools[pid]
