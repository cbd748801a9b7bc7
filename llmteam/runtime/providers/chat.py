"""What providers over a vendor's SDK have in common: one client per loop, one deadline, one kind of error."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator
from importlib import import_module
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.ids import utc_now
from llmteam.net.headers import retry_after
from llmteam.runtime.exceptions import (
    ModelAuthenticationError,
    ModelError,
    ModelNotConfiguredError,
    ModelRateLimitedError,
    ModelRequestError,
    ModelResponseError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from llmteam.runtime.models import Completion, CompletionRequest

#: How long one answer may take, in seconds.
ANSWER_SECONDS = 120.0

#: Statuses worth another try beside all of 5xx: Request Timeout, Conflict (a lock at the provider), Too Early.
_TRANSIENT = frozenset({408, 409, 425})
#: A provider's word for an error, as opposed to a sentence, which may quote prompt or key.
_CODE = re.compile(r"[a-z0-9_.]{1,64}", re.IGNORECASE)
#: Error codes under which 429 does not mean "later".
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


class Closable(Protocol):
    """An SDK's client."""

    async def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class LoopClients(Generic[C]):
    """One SDK client per event loop, for its connections belong to the loop that made them.

    A client is closed when its loop ends as ``asyncio.run`` ends it, or by :meth:`aclose`.
    """

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[C, AsyncGenerator[None, None]]] = (
            WeakKeyDictionary()
        )

    async def current(self) -> C:
        """The running loop's client, made on first use."""
        loop = asyncio.get_running_loop()
        with self._lock:
            entry = self._keepers.get(loop)
            if entry is not None:
                return entry[0]
            client = self._make()
            keeper = _kept(client)
            self._keepers[loop] = (client, keeper)
        # Begun, the generator is known to the loop, which closes it, and the client, at its end.
        await anext(keeper)
        return client

    async def aclose(self) -> None:
        """Close the running loop's client. The next use makes a new one."""
        with self._lock:
            entry = self._keepers.pop(asyncio.get_running_loop(), None)
        if entry is not None:
            await entry[1].aclose()


async def _kept(client: Closable) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await client.close()


class SDKProvider(ABC, Generic[C]):
    """An ``LLMProvider`` and ``ChatProvider`` over an SDK. Its own retries are off: the engine retries.

    Optional parameters that a model refuses by name are left out from then on, so one configuration serves old and
    new models.
    """

    name: ClassVar[str]
    #: The SDK's module, which is also the name of the extra that installs it, and modules of it that load late.
    sdk: ClassVar[str]
    sdk_parts: ClassVar[tuple[str, ...]]
    #: Parameters without which a request still makes sense.
    optional: ClassVar[tuple[str, ...]]

    def __init__(self, base_url: str, model: str | None, timeout: float) -> None:
        from llmteam.net.resources import base_target

        if not timeout > 0:
            raise ConfigurationError(f"timeout has to be a positive number of seconds, not {timeout!r}")
        self._where = base_target(base_url).authority
        self._base_url = base_url
        self.model = model
        self._timeout = timeout
        self._clients = LoopClients(self._make_client)
        self._refused: dict[str, frozenset[str]] = {}
        self._loaded = False

    async def complete(self, prompt: str, **kwargs: Any) -> str:
        """The answer's text; ``kwargs`` are the fields of :class:`CompletionRequest`. Raises :class:`ModelError`."""
        return (await self.chat(CompletionRequest.of(prompt, **kwargs))).text

    async def chat(self, request: CompletionRequest) -> Completion:
        """One answer. Raises :class:`ModelError`, or an error of :mod:`llmteam.net` when the guard refuses."""
        model = request.model or self.model
        if not model:
            raise ModelRequestError(f"{self.name}: no model is named; set `model` in the step's config")
        seconds = self._timeout if request.timeout is None else min(self._timeout, request.timeout)
        try:
            async with asyncio.timeout(seconds):
                if not self._loaded:
                    # The SDKs take a second or two to import, which would stop every other call of this loop.
                    await asyncio.to_thread(self._load)
                    self._loaded = True
                return await self._adapting(await self._clients.current(), model, request)
        except TimeoutError as exc:
            if isinstance(exc, LLMTeamError):
                raise
            raise ModelTimeoutError(f"{self.name}: model '{model}' did not answer within {seconds:g} s") from None

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        await self._clients.aclose()

    def _load(self) -> None:
        try:
            for module in (self.sdk, *self.sdk_parts, "llmteam.net.sdk_async"):
                import_module(module)
        except ImportError:
            raise ModelNotConfiguredError(
                f"{self.name}: its SDK is not installed; run pip install 'llmteam[{self.sdk}]'"
            ) from None

    @abstractmethod
    def _make_client(self) -> C: ...

    @abstractmethod
    async def _send(self, client: C, model: str, request: CompletionRequest, refused: frozenset[str]) -> Completion:
        """Ask once, without the parameters in ``refused``. SDK errors pass."""

    async def _adapting(self, client: C, model: str, request: CompletionRequest) -> Completion:
        while True:
            refused = self._refused.get(model, frozenset())
            try:
                return await self._send(client, model, request, refused)
            except LLMTeamError:
                raise
            except Exception as exc:  # noqa: BLE001 the SDKs' errors have no base in common
                parameter = _refused_parameter(exc, self.optional)
                if parameter is None or parameter in refused:
                    raise translated(exc, self.name, model, self._where) from None
                self._refused[model] = refused | {parameter}


def _refused_parameter(exc: Exception, optional: tuple[str, ...]) -> str | None:
    """The optional parameter that a 400 or 422 is about, by the error's own field, else by its sentence."""
    if getattr(exc, "status_code", None) not in (400, 422):
        return None
    named = getattr(exc, "param", None)
    if isinstance(named, str) and named.split(".")[0] in optional:
        return named.split(".")[0]
    sentence = f"{getattr(exc, 'message', '')} {getattr(exc, 'api_message', '')}"
    return next((name for name in optional if re.search(rf"\b{name}\b", sentence)), None)


def translated(exc: Exception, provider: str, model: str, where: str) -> LLMTeamError:
    """The error of ours for an SDK's. Sentences of the provider stay out: they may quote the prompt or the key."""
    ours = next((cause for cause in _causes(exc) if isinstance(cause, LLMTeamError)), None)
    if ours is not None:
        return ours
    status = getattr(exc, "status_code", None)
    if isinstance(status, int) and status >= 400:
        return _from_status(exc, status, provider, model)
    if isinstance(exc, json.JSONDecodeError | UnicodeDecodeError) or isinstance(status, int):
        return ModelResponseError(f"{provider}: the answer of {where} is no JSON; does the base URL lead to the API?")
    kind = type(exc).__name__
    if "Timeout" in kind:
        return ModelTimeoutError(f"{provider}: model '{model}' did not answer in time")
    if "Connection" in kind:
        return ModelUnavailableError(f"{provider}: no connection to {where}, or it broke")
    return ModelError(f"{provider}: the SDK failed with {kind}")


def _from_status(exc: Exception, status: int, provider: str, model: str) -> ModelError:
    code = _code(exc)
    text = f"{provider}: model '{model}' answered HTTP {status}" + (f" ({code})" if code else "")
    if status == 429 and code not in _NO_CREDIT:
        return ModelRateLimitedError(text, status=status, retry_after=_asked_delay(exc))
    if status >= 500 or status in _TRANSIENT:
        return ModelUnavailableError(text, status=status, retry_after=_asked_delay(exc))
    if status in (401, 403):
        return ModelAuthenticationError(f"{text}: check the API key and what it may use", status=status)
    if status == 404:
        return ModelRequestError(f"{text}: check the model's name and the base URL", status=status)
    return ModelRequestError(text, status=status)


def _code(exc: Exception) -> str | None:
    words = (getattr(exc, name, None) for name in ("code", "error_code", "type"))
    return next((word for word in words if isinstance(word, str) and _CODE.fullmatch(word)), None)


def _asked_delay(exc: Exception) -> float | None:
    response = getattr(exc, "response", None)
    headers = getattr(response, "headers", None)
    return None if headers is None else retry_after(headers.get("retry-after"), utc_now())


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__
