"""The answer to an outbound request, read completely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmteam import codec
from llmteam.ids import utc_now
from llmteam.net.errors import HTTPStatusError, InvalidResponseError
from llmteam.net.headers import is_json, media_type, retry_after


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """Status, headers (lower-case names) and decompressed body. ``where`` is host and path, for error texts."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    where: str = ""

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    @property
    def media_type(self) -> str:
        """The lower-case media type, empty when the server names none."""
        return media_type(self.headers.get("content-type", ""))[0]

    @property
    def is_json(self) -> bool:
        """Whether the content type promises JSON."""
        return is_json(self.media_type)

    @property
    def text(self) -> str:
        """The body as text, by the charset of the content type, else UTF-8. Raises :class:`InvalidResponseError`."""
        charset = media_type(self.headers.get("content-type", ""))[1] or "utf-8"
        try:
            return self.body.decode(charset)
        except (UnicodeDecodeError, LookupError):
            pass
        raise InvalidResponseError(self.where, f"it is not text in {charset[:40]}")

    def json(self) -> Any:
        """The body as JSON. Raises :class:`InvalidResponseError`."""
        try:
            return codec.loads(self.body)
        except (ValueError, RecursionError):
            pass
        raise InvalidResponseError(self.where, "it is not valid JSON")

    def raise_for_status(self) -> None:
        """Raise :class:`HTTPStatusError` for a status of 400 or above."""
        if not self.ok:
            raise HTTPStatusError(self.status, self.where, retry_after(self.headers.get("retry-after"), utc_now()))
