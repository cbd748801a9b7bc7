"""What can go wrong with an outbound request, as typed errors.

::

    LLMTeamError
    ├── OutboundRefusedError        the guard refuses the address, the URL or the redirect
    ├── InvalidHeaderError          a header could smuggle a second one
    ├── ConnectError                no connection, or it broke
    │   └── CertificateError        the server's certificate does not fit its name
    ├── RequestTimeoutError         the whole request took longer than allowed
    ├── RequestCancelledError       the caller gave up
    ├── ResponseTooLargeError       more bytes than allowed after decompression
    ├── InvalidResponseError        the answer is not what its headers say
    ├── HTTPStatusError             a status of 400 or above
    └── MailRefusedError            the mail server does not take a message

Texts name host and path only: never a query, a header or a body, for these carry secrets.
"""

from __future__ import annotations

from llmteam.errors import LLMTeamError

#: The setting that opens a private address to outbound requests.
ALLOW_SETTING = "LLMTEAM_ALLOW_PRIVATE_NETWORKS"

#: Statuses worth another try beside all of 5xx: Request Timeout, Too Early, Too Many Requests.
RETRYABLE_STATUSES = frozenset({408, 425, 429})


class OutboundRefusedError(LLMTeamError):
    """The outbound guard refuses to send a request there; nothing was sent.

    ``where`` is what may be shown of the destination, ``reason`` the rule that applied.
    """

    retryable = False

    def __init__(self, where: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"request to {where} refused: {reason}" + (f"; {remedy}" if remedy else ""))
        self.where = where
        self.reason = reason
        self.remedy = remedy


class InvalidHeaderError(LLMTeamError, ValueError):
    """A request header has a name or a value that HTTP does not allow. The value is never shown."""

    retryable = False

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"header {name[:60]!r}: {reason}")
        self.name = name
        self.reason = reason


class ConnectError(LLMTeamError):
    """No connection could be made, or it broke before the answer was complete."""

    retryable = True

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"no answer from {where}: {reason}")
        self.where = where
        self.reason = reason


class CertificateError(ConnectError):
    """The server's certificate is not valid for its name."""

    retryable = False


class RequestTimeoutError(LLMTeamError):
    """The request as a whole, redirects and body included, took longer than ``seconds``."""

    retryable = True

    def __init__(self, where: str, seconds: float) -> None:
        super().__init__(f"request to {where} timed out after {seconds:g} s")
        self.where = where
        self.seconds = seconds


class RequestCancelledError(LLMTeamError):
    """The caller's work was cancelled while the request was on its way."""

    retryable = True

    def __init__(self, where: str = "") -> None:
        super().__init__(f"request to {where} cancelled" if where else "request cancelled")
        self.where = where


class ResponseTooLargeError(LLMTeamError):
    """The answer is over ``limit`` bytes after decompression."""

    retryable = False

    def __init__(self, where: str, limit: int) -> None:
        super().__init__(f"the answer of {where} is over the limit of {limit:,} bytes: ask for less or raise it")
        self.where = where
        self.limit = limit


class InvalidResponseError(LLMTeamError):
    """The answer cannot be decoded: broken compression, or no JSON where its content type promises it."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"the answer of {where} cannot be read: {reason}")
        self.where = where
        self.reason = reason


class HTTPStatusError(LLMTeamError):
    """The server answered with an error status.

    Retryable for 408, 425, 429 and 5xx. ``retry_after`` is the least delay in seconds that the server asked for.
    """

    def __init__(self, status: int, where: str, retry_after: float | None = None) -> None:
        super().__init__(f"{where} answered HTTP {status}")
        self.status = status
        self.where = where
        self.retry_after = retry_after
        self.retryable = status in RETRYABLE_STATUSES or status >= 500


class MailRefusedError(LLMTeamError):
    """The mail server said no. ``what`` is what it does not take, ``code`` its reply code (RFC 5321), or 0."""

    def __init__(self, where: str, what: str, code: int) -> None:
        super().__init__(f"the mail server {where} refuses {what}" + (f" (reply {code})" if code else ""))
        self.where = where
        self.what = what
        self.code = code
        self.retryable = not 500 <= code <= 599
