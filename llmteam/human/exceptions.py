"""What can be wrong with an answer, in words for the person who gave it.

::

    InteractionError
    ├── InteractionNotFoundError    no such request (for this tenant); also a ValueError
    ├── InteractionClosedError      it was answered, cancelled or is over time
    ├── InteractionChangedError     what was shown has changed since
    ├── InvalidResponseError        the answer does not fit what was asked; also a ValueError
    ├── ResponderNotAllowedError    somebody else was asked; also a PermissionError
    ├── ResponseTooLargeError       a comment, message or form is over its limit
    ├── AnswerLinkError             a link is forged, expired, used, or another's
    └── AccessTokenError            a token for the inbox is forged or expired
"""

from __future__ import annotations

from llmteam.errors import LLMTeamError


class InteractionError(LLMTeamError):
    """Root of the errors of ``llmteam.human``. Trying the same again does not help."""

    retryable = False


class InteractionNotFoundError(InteractionError, ValueError):
    """There is no such request, or it is another tenant's, which looks the same."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request '{request_id[:64]}' not found: see the open ones with `llmteam inbox list`")
        self.request_id = request_id


class InteractionClosedError(InteractionError):
    """The request takes no answer any more. ``status`` is where it stands."""

    def __init__(self, request_id: str, status: str) -> None:
        said = {
            "completed": "it was answered already",
            "rejected": "it was rejected already",
            "timeout": "the time for it is over",
            "cancelled": "it was cancelled",
        }
        super().__init__(f"request '{request_id}' takes no more answers: {said.get(status, status)}")
        self.request_id = request_id
        self.status = status


class InteractionChangedError(InteractionError):
    """What the person decided on is not what the request shows now."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request '{request_id}' has changed since it was shown: look at it again, then decide")
        self.request_id = request_id


class InvalidResponseError(InteractionError, ValueError):
    """The answer does not fit the request. ``path`` is the JSON path of what is wrong in a form, else empty."""

    def __init__(self, request_id: str, problem: str, path: str = "") -> None:
        super().__init__(f"request '{request_id}' cannot be answered like this: {problem}")
        self.request_id = request_id
        self.problem = problem
        self.path = path


class ResponderNotAllowedError(InteractionError, PermissionError):
    """This person may not answer the request."""

    def __init__(self, request_id: str, responder_id: str, reason: str) -> None:
        super().__init__(f"'{responder_id[:64]}' may not answer request '{request_id}': {reason}")
        self.request_id = request_id
        self.responder_id = responder_id
        self.reason = reason


class ResponseTooLargeError(InteractionError, ValueError):
    """A part of an answer is over its limit; sizes are in bytes."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"the {what} has {size:,} bytes, and {limit:,} are the most: shorten it, or link to it")
        self.what = what
        self.size = size
        self.limit = limit


class InvalidRequestError(InteractionError, ValueError):
    """A request cannot be asked like this: no options to choose from, a schema that is none, nobody who may answer."""


class AnswerLinkError(InteractionError):
    """A link cannot be used. ``reason`` is one of ``forged``, ``expired``, ``used``, ``other_person``."""

    def __init__(self, reason: str) -> None:
        said = {
            "forged": "it is not one of ours, or was cut off when it was copied",
            "expired": "it has expired",
            "used": "it was used before; each works once",
            "other_person": "it was made for somebody else",
        }
        super().__init__(
            f"this link cannot be used: {said.get(reason, reason)}. Ask for a new one, or answer in the inbox"
        )
        self.reason = reason


class AccessTokenError(InteractionError):
    """A token for the inbox cannot be used. ``reason`` is ``forged`` or ``expired``."""

    def __init__(self, reason: str) -> None:
        said = {"forged": "it is not one of ours, or was cut off when it was copied", "expired": "it has expired"}
        super().__init__(f"this access token cannot be used: {said.get(reason, reason)}. Ask an operator for another")
        self.reason = reason
