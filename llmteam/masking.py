"""Values that must not be shown: text that masks itself, and texts that are looked for before anything is written."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Generator, Mapping
from typing import Any, NoReturn, Self

MASK = "***"
#: What stands in the place of a value that is not kept because of its field's name.
REDACTED = "[redacted]"
#: Shorter texts are not looked for when texts are redacted: replacing them would garble more than it hides.
MIN_REDACTED = 4
#: Shorter texts do not get an answer refused in which they stand: they may stand there by chance.
MIN_REFUSED = 8
#: Texts that one process remembers for its log, the latest.
REMEMBERED = 1000


#: Each secret's name contains one of these, so that text without any needs no walk.
_MARKERS = (
    *("pass", "pwd", "secret", "token", "authorization", "cookie", "credential", "key"),
    *("card", "cvv", "cvc", "ssn", "pin", "pan"),
)
_SECRET_NAME = re.compile(
    "password|passwd|passphrase|"
    "(?:pwd|secrets?|token|authorization|cookies?|credentials?|cardnumber|cvv|cvc|ssn|"
    "(?:api|access|private|encryption|signing|secret|session)key)$|^(?:pin|pan)$"
)
_NO_LETTER = re.compile("[^a-z]")
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")


def hide_logins(text: str) -> str:
    """``text`` with the user and password of each URL in it hidden."""
    return _USERINFO.sub(f"{MASK}@", text)


def may_name_secret(text: str) -> bool:
    """Whether a name for which :func:`is_secret_name` says yes may stand in ``text``."""
    lowered = text.lower()
    return any(marker in lowered for marker in _MARKERS)


def is_secret_name(name: str) -> bool:
    """Whether what a field of this name holds is a credential or a card's; case, digits and punctuation aside.

    ``password_hash``, ``accessToken``, ``X-Api-Key`` and ``cvv2`` are; ``max_tokens``, ``secret_ref`` and
    ``primary_key`` are not.
    """
    return may_name_secret(name) and _SECRET_NAME.search(_NO_LETTER.sub("", name.lower())) is not None


class SecretValue(str):
    """A secret as text: usable wherever text is, masked wherever values are shown.

    ``repr`` is masked, which covers logged arguments (``%r``), tracebacks, containers and dataclasses. ``str()``,
    formatting and concatenation give the value, because a header made of a mask would fail far from here. It cannot be
    pickled, and :mod:`llmteam.codec` refuses to write it, so that no event, output or snapshot holds one.
    ``await value`` is ``value``.
    """

    __slots__ = ()

    #: Read by :mod:`llmteam.codec`.
    is_secret = True

    def __repr__(self) -> str:
        return f"SecretValue('{MASK}')"

    def __await__(self) -> Generator[None, None, Self]:
        return self
        yield

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret value does not leave its process: send its id and read it there")


def masked(value: Any) -> Any:
    """A copy of a JSON value in which every text masks itself; keys stay as they are."""
    if isinstance(value, str):
        return SecretValue(value)
    if isinstance(value, Mapping):
        return {key: masked(part) for key, part in value.items()}
    return [masked(part) for part in value] if isinstance(value, list | tuple) else value


def unmasked(value: Any) -> Any:
    """The opposite of :func:`masked`, for what is about to be encrypted."""
    if isinstance(value, SecretValue):
        return str(value)
    if isinstance(value, Mapping):
        return {key: unmasked(part) for key, part in value.items()}
    return [unmasked(part) for part in value] if isinstance(value, list | tuple) else value


def texts_in(value: Any) -> set[str]:
    """Every text of a JSON value, keys left out."""
    if isinstance(value, str):
        return {str(value)}
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return {text for part in parts for text in texts_in(part)}


def redact(text: str, secrets: Collection[str]) -> str:
    """``text`` with each of ``secrets`` replaced, also where it is written as JSON or Python writes it."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_REDACTED:
            for form in _forms(secret):
                if form in text:
                    text = text.replace(form, MASK)
    return text


def redact_in(value: Any, secrets: Collection[str]) -> Any:
    """A copy of a JSON value with :func:`redact` on each of its texts, keys included."""
    if not secrets:
        return value
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, Mapping):
        return {redact(key, secrets): redact_in(part, secrets) for key, part in value.items()}
    return [redact_in(part, secrets) for part in value] if isinstance(value, list | tuple) else value


def without(value: Any, names: Collection[str]) -> Any:
    """A copy of a JSON value without what stands under one of ``names``, at any depth."""
    if isinstance(value, Mapping):
        return {key: without(part, names) for key, part in value.items() if key not in names}
    return [without(part, names) for part in value] if isinstance(value, list | tuple) else value


def shows(text: str, secrets: Collection[str]) -> bool:
    """Whether one of ``secrets`` stands in ``text``."""
    return any(len(secret) >= MIN_REFUSED and any(form in text for form in _forms(secret)) for secret in secrets)


def _forms(secret: str) -> set[str]:
    """How a text may stand in another one. Of a text of several lines each long one counts."""
    lines = [line for line in secret.splitlines() if len(line) >= 4 * MIN_REDACTED] if "\n" in secret else []
    every = (secret, *lines)
    quoted = (json.dumps(one, ensure_ascii=ascii_only)[1:-1] for one in every for ascii_only in (False, True))
    return {*every, *quoted, *(repr(one)[1:-1] for one in every)}


class Remembered:
    """Texts that this process has handled and must not log, the latest ones; safe for threads."""

    def __init__(self, kept: int = REMEMBERED) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._texts: OrderedDict[str, None] = OrderedDict()

    def add(self, texts: Collection[str]) -> None:
        """Look for these from now on; short ones are not kept."""
        with self._lock:
            for text in texts:
                if len(text) >= MIN_REDACTED:
                    self._texts[str(text)] = None
                    self._texts.move_to_end(str(text))
            while len(self._texts) > self._kept:
                self._texts.popitem(last=False)

    def redact(self, text: str) -> str:
        """``text`` with everything that is remembered replaced."""
        if not self._texts:
            return text
        with self._lock:
            known = list(self._texts)
        return redact(text, known)


#: What no line of this process's log may show. Not for what tenants see: what one of them has would change what
#: another one sees.
never_logged = Remembered()
