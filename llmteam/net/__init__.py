"""Everything that leaves the process, HTTP and mail, behind one guard.

Importing this package is cheap: the HTTP libraries load with the first client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmteam.net.defaults import default_client, default_guard, guard_from, refuse_endpoints, use_guard
from llmteam.net.errors import (
    CertificateError,
    ConnectError,
    HTTPStatusError,
    InvalidHeaderError,
    InvalidResponseError,
    MailRefusedError,
    OutboundRefusedError,
    RequestCancelledError,
    RequestTimeoutError,
    ResponseTooLargeError,
)
from llmteam.net.guard import OutboundGuard
from llmteam.net.response import HttpResponse

if TYPE_CHECKING:
    from llmteam.net.client import HttpClient
    from llmteam.net.mail import MailClient, MailServer
    from llmteam.net.resources import BaseUrlClient, UrlClient
    from llmteam.net.sdk_async import async_sdk_http_client

__all__ = [
    "BaseUrlClient",
    "CertificateError",
    "ConnectError",
    "HTTPStatusError",
    "HttpClient",
    "HttpResponse",
    "InvalidHeaderError",
    "InvalidResponseError",
    "MailClient",
    "MailRefusedError",
    "MailServer",
    "OutboundGuard",
    "OutboundRefusedError",
    "RequestCancelledError",
    "RequestTimeoutError",
    "ResponseTooLargeError",
    "UrlClient",
    "async_sdk_http_client",
    "default_client",
    "default_guard",
    "guard_from",
    "refuse_endpoints",
    "use_guard",
]

_LAZY = {
    "async_sdk_http_client": "llmteam.net.sdk_async",
    "BaseUrlClient": "llmteam.net.resources",
    "HttpClient": "llmteam.net.client",
    "MailClient": "llmteam.net.mail",
    "MailServer": "llmteam.net.mail",
    "UrlClient": "llmteam.net.resources",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
