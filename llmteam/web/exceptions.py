"""What can be wrong with a request before anything is done about it.

::

    WebError
    ├── NotSignedInError            it does not say who asks, or nobody we know
    ├── OperatorsOnlyError          it is for operators
    ├── FormExpiredError            a form that is not one of our pages', or is another session's
    └── BodyTooLargeError           it is larger than anything that is asked for
"""

from __future__ import annotations

from llmteam.errors import LLMTeamError


class WebError(LLMTeamError):
    """Root of the errors of this package."""

    retryable = False


class NotSignedInError(WebError):
    """Nobody is known to ask."""

    def __init__(self, reason: str = "no access token was given") -> None:
        super().__init__(f"sign in first: {reason}; `llmteam inbox token` makes one")
        self.reason = reason


class OperatorsOnlyError(WebError, PermissionError):
    """Somebody who is no operator asks for what only operators may."""

    def __init__(self, person: str, what: str) -> None:
        super().__init__(f"'{person[:64]}' may not {what}: that is for members of the group 'operators'")
        self.person = person
        self.what = what


class FormExpiredError(WebError):
    """A form was sent that did not come from a page of this session."""

    def __init__(self) -> None:
        super().__init__(
            "this form was not sent from a page of your session: open the page again, then send it; nothing has changed"
        )


class BodyTooLargeError(WebError):
    """A request has more bytes than are read. Sizes are in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request has more than {limit:,} bytes, which are the most: send less, or link to it")
        self.limit = limit
