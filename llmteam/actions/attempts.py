"""One HTTP attempt, the same for ``http_action``, webhook actions and notifications: body, signature, limits, answer.

The guard, the time limit and the errors are those of :mod:`llmteam.net`, which also say whether another attempt may
help (``retryable``) and when (``retry_after``).
"""

from __future__ import annotations

import base64
import re
from asyncio import timeout as time_limit
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from llmteam import codec, net
from llmteam.actions.exceptions import ActionDataError
from llmteam.crypto import sign_webhook
from llmteam.ids import Clock, utc_now
from llmteam.net.headers import is_json, media_type
from llmteam.net.response import HttpResponse

if TYPE_CHECKING:
    from llmteam.net import UrlClient

#: The header with the moment and the signature.
SIGNATURE_HEADER = "X-LLMTeam-Signature"
JSON_TYPE = "application/json"

#: Never stored: they are credentials of the service.
_UNSTORED = frozenset({"set-cookie", "set-cookie2"})
_SECRET = re.compile(r"\$\{secret:([^{}]*)\}")
_SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@-]{0,199}")


@dataclass(frozen=True)
class HttpAttempt:
    """One request, ready to be sent. ``body`` has what it carries as ``json`` or ``data``, or nothing."""

    method: str
    place: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)
    seconds: float
    max_bytes: int = 1024 * 1024
    fail_on_status: bool = True

    @property
    def shown(self) -> str:
        """What error texts may say of the destination."""
        return self.place.partition("?")[0][:200]

    def signed(self, key: bytes | str, moment: datetime) -> HttpAttempt:
        """The attempt with its body written out and signed; :func:`~llmteam.crypto.verify_webhook` checks that."""
        data, headers = self.written()
        signature = sign_webhook(key.encode() if isinstance(key, str) else key, data or b"", moment)
        return replace(
            self, headers={**headers, SIGNATURE_HEADER: signature}, body={} if data is None else {"data": data}
        )

    def written(self) -> tuple[bytes | None, dict[str, str]]:
        """Body and headers as they are sent. Raises :class:`NotJSONError`."""
        if "json" not in self.body:
            return self.body.get("data"), dict(self.headers)
        named = any(name.lower() == "content-type" for name in self.headers)
        return codec.dumps(self.body["json"]).encode(), {
            **({} if named else {"Content-Type": JSON_TYPE}),
            **self.headers,
        }

    def send(
        self, request: Callable[..., HttpResponse], cancelled: Event | None = None, **options: Any
    ) -> HttpResponse:
        """Send it by one of our own clients. Raises the errors of :mod:`llmteam.net`."""
        return request(
            self.method,
            self.place,
            headers=dict(self.headers),
            timeout=self.seconds,
            max_bytes=self.max_bytes,
            cancelled=cancelled,
            raise_for_status=self.fail_on_status,
            **self.body,
            **options,
        )

    async def awaited(self, answer: Awaitable[Any]) -> Any:
        """What a client of the user's own answers, in time."""
        limit = time_limit(self.seconds)
        try:
            async with limit:
                return await answer
        except TimeoutError:
            if not limit.expired():
                raise
        raise net.RequestTimeoutError(self.shown, self.seconds)

    def adapted(self, answer: Any) -> HttpResponse | None:
        """The answer of a client of the user's own (``httpx``, ``requests``); None when it is a parsed body itself."""
        if isinstance(answer, HttpResponse):
            response = answer
        elif hasattr(answer, "status_code"):
            headers = {str(name).lower(): str(value) for name, value in answer.headers.items()}
            response = HttpResponse(int(answer.status_code), headers, bytes(answer.content), self.shown)
        else:
            return None
        if self.fail_on_status:
            response.raise_for_status()
        if len(response.body) > self.max_bytes:
            raise net.ResponseTooLargeError(response.where, self.max_bytes)
        return response


def post(client: UrlClient, payload: Any, *, key: bytes | None = None, clock: Clock = utc_now) -> None:
    """Post ``payload`` as JSON, signed when there is a ``key``; returns when it was taken (a status of 2xx)."""
    attempt = HttpAttempt("POST", client.where, {}, {"json": payload}, client.timeout)
    data, headers = (attempt.signed(key, clock()) if key else attempt).written()
    client.post(data or b"", headers)


def encoded(headers: Mapping[str, str], value: Any) -> dict[str, Any]:
    """The body as keywords of a request: JSON, unless the content type asks for text or a form.

    ``headers`` have lower-case names. Raises :class:`ActionDataError`, :class:`NotJSONError`.
    """
    if value is None:
        return {}
    media, charset = media_type(headers.get("content-type", ""))
    if not media or is_json(media):
        return {"json": value} if not media else {"data": codec.dumps(value).encode()}
    if isinstance(value, str):
        try:
            return {"data": value.encode(charset or "utf-8")}
        except (LookupError, UnicodeEncodeError):
            raise ActionDataError(f"the body cannot be written in {charset[:40]}") from None
    if media == "application/x-www-form-urlencoded" and isinstance(value, dict):
        return {"data": urlencode(value, doseq=True).encode()}
    raise ActionDataError(f"a body of type {media} has to be text")


def parsed(response: HttpResponse) -> Any:
    """JSON where the content type says so, else text; bytes that are no text as ``{"content_type", "base64"}``.

    Raises :class:`InvalidResponseError`.
    """
    if not response.body:
        return None
    if response.is_json:
        return response.json()
    try:
        text = response.text
    except net.InvalidResponseError:
        text = "\x00"
    if "\x00" not in text:
        return text
    return {"content_type": response.media_type, "base64": base64.b64encode(response.body).decode()}


def stored_headers(response: HttpResponse) -> dict[str, str]:
    """The headers of an answer that may be kept."""
    return {name: value for name, value in response.headers.items() if name not in _UNSTORED}


def secret_names(name: str, value: Any) -> list[str]:
    """The secrets that a header's value names as ``${secret:name}``. Raises :class:`ActionDataError`."""
    if not isinstance(value, str):
        return []
    if "${" in _SECRET.sub("", value):
        raise ActionDataError(f"headers.{name}: after $ only {{secret:name}} is known")
    found = _SECRET.findall(value)
    for secret in found:
        if _SECRET_NAME.fullmatch(secret) is None:
            raise ActionDataError(f"headers.{name}: {secret[:60]!r} is no name of a secret")
    return found


def with_secrets(value: Any, read: Callable[[str], str]) -> Any:
    """A header's value with its secrets in place."""
    return _SECRET.sub(lambda match: str(read(match[1])), value) if isinstance(value, str) else value
