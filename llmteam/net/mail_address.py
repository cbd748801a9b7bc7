"""Pure: what is taken for an e-mail address."""

from __future__ import annotations

_ALPHANUMERIC = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_LOCAL = _ALPHANUMERIC | set("!#$%&'*+-/=?^_`{|}~.")
_DOMAIN = _ALPHANUMERIC | set("-.")


def looks_like_address(text: str) -> bool:
    """Whether ``text`` is one plain e-mail address: ASCII, no display name, nothing that a header could be made of."""
    local, at, domain = text.rpartition("@")
    return bool(
        at
        and len(text) <= 254
        and set(local) <= _LOCAL
        and set(domain) <= _DOMAIN
        and local.strip(".") == local != ""
        and domain.strip(".-") == domain != ""
        and ".." not in text
    )
