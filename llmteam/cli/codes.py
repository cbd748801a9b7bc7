"""Exit codes, which are part of the interface, and which error gives which."""

from __future__ import annotations

import signal

from llmteam.errors import ConfigurationError, InfrastructureError, NotJSONError, PayloadTooLargeError

DONE = 0
#: The run or a check failed.
FAILED = 1
#: Wrong usage, a wrong setting, or an invalid segment.
USAGE = 2
#: A server cannot be reached or is not set up.
UNREACHABLE = 3


def code_of(exc: BaseException) -> int:
    """The exit code that tells of ``exc``."""
    from llmteam.canvas.exceptions import CanvasError
    from llmteam.human.exceptions import (
        InteractionNotFoundError,
        InvalidRequestError,
        InvalidResponseError,
        ResponseTooLargeError,
    )
    from llmteam.ids import InvalidIdentifierError

    if isinstance(exc, InfrastructureError):
        return UNREACHABLE
    answer = (InteractionNotFoundError, InvalidRequestError, InvalidResponseError, ResponseTooLargeError)
    usage = (ConfigurationError, CanvasError, InvalidIdentifierError, NotJSONError, PayloadTooLargeError)
    return USAGE if isinstance(exc, (*usage, *answer)) else FAILED


def code_of_signal(number: int) -> int:
    """What shells show for a program that ended by a signal; 130 for Ctrl-C."""
    return 128 + int(signal.Signals(number))
