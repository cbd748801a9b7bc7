"""Envelope encryption: values under a tenant's data key, data keys under the installation's master keys.

Both are AES-256-GCM with a random nonce of 96 bits, for which a key may seal 2^32 values (NIST SP 800-38D, 8.3). What a
value belongs to is authenticated with it and not stored: moved to another tenant, owner or field it does not open.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from llmteam import codec
from llmteam.errors import ConfigurationError, LLMTeamError
from llmteam.ids import new_id, random_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: Bytes of a key, and of a nonce.
KEY_BYTES, NONCE_BYTES = 32, 12

_SEALED = "s1"
_WRAPPED = "w1"


class CryptoError(LLMTeamError):
    """Root of what can go wrong with sealed values."""

    retryable = False


class SealBrokenError(CryptoError):
    """A sealed value does not open: it was changed, or sealed for another tenant, owner, field or purpose."""


class NoEncryptionKeysError(ConfigurationError):
    """Something has to be sealed and there is no master key."""

    def __init__(self) -> None:
        super().__init__(
            "nothing can be sealed at rest: LLMTEAM_ENCRYPTION_KEYS is not set: set it to 'id:KEY', "
            "KEY being the output of: openssl rand -base64 32"
        )


class UnknownMasterKeyError(ConfigurationError):
    """A data key was wrapped by a master key that is not among ours any more."""

    def __init__(self, master_id: str) -> None:
        super().__init__(
            f"the master key '{master_id}' is not in LLMTEAM_ENCRYPTION_KEYS, but data keys are wrapped by it: "
            "add it behind the current one, run `llmteam keys rewrap`, then remove it"
        )
        self.master_id = master_id


class Vault(Protocol):
    """Seals values for one tenant. ``durable`` says whether they can be opened in other processes and later."""

    @property
    def durable(self) -> bool: ...

    def seal(self, purpose: str, place: Sequence[str], plain: bytes) -> str:
        """``plain`` as text that only opens for the same purpose and place."""
        ...

    def open(self, purpose: str, place: Sequence[str], sealed: str) -> bytes:
        """What was sealed. Raises :class:`SealBrokenError`."""
        ...


class DataKey:
    """A key that values are sealed with. Shows its id only, and neither pickles nor copies."""

    __slots__ = ("_cipher", "_raw", "key_id")

    def __init__(self, key_id: str, raw: bytes) -> None:
        self.key_id = key_id
        self._raw = raw
        self._cipher = _cipher(raw)

    @classmethod
    def generate(cls) -> DataKey:
        """A fresh key with a fresh id."""
        return cls(new_id(), random_bytes(KEY_BYTES))

    def __repr__(self) -> str:
        return f"DataKey({self.key_id!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a data key does not leave its process")

    def seal(self, tenant_id: str, purpose: str, place: Sequence[str], plain: bytes) -> str:
        """``plain`` encrypted, as text that names this key."""
        bound = _bound(_SEALED, self.key_id, tenant_id, purpose, place)
        return f"{_SEALED}.{self.key_id}.{_encrypt(self._cipher, plain, bound)}"

    def open(self, tenant_id: str, purpose: str, place: Sequence[str], sealed: str) -> bytes:
        """What :meth:`seal` was given. Raises :class:`SealBrokenError`."""
        if key_id_of(sealed) != self.key_id:
            raise SealBrokenError(f"a sealed value does not open: it was not sealed with the key {self.key_id}")
        bound = _bound(_SEALED, self.key_id, tenant_id, purpose, place)
        return _decrypt(self._cipher, sealed.rpartition(".")[2], bound, "a sealed value")


def key_id_of(sealed: str) -> str:
    """The id of the key that ``sealed`` was sealed with. Raises :class:`SealBrokenError` when it is no sealed value."""
    parts = sealed.split(".")
    if len(parts) != 3 or parts[0] != _SEALED:
        raise SealBrokenError("this is no sealed value, or a newer llmteam sealed it")
    return parts[1]


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as it is stored: encrypted by the master key ``master_id``."""

    key_id: str
    master_id: str
    wrapped: str = field(repr=False)


class MasterKeys:
    """The keys of ``LLMTEAM_ENCRYPTION_KEYS`` as (id, 32 bytes): the first wraps, all unwrap."""

    def __init__(self, keys: Iterable[tuple[str, bytes]] = ()) -> None:
        self._ciphers = {master_id: _cipher(raw) for master_id, raw in keys}

    def __repr__(self) -> str:
        return f"MasterKeys({list(self._ciphers)})"

    def __bool__(self) -> bool:
        return bool(self._ciphers)

    def __contains__(self, master_id: str) -> bool:
        return master_id in self._ciphers

    @property
    def current(self) -> str:
        """The id of the key that wraps. Raises :class:`NoEncryptionKeysError`."""
        for master_id in self._ciphers:
            return master_id
        raise NoEncryptionKeysError

    def wrap(self, key: DataKey, tenant_id: str) -> WrappedKey:
        """``key`` under the current master key, for this tenant. Raises :class:`NoEncryptionKeysError`."""
        master_id = self.current
        bound = _bound(_WRAPPED, master_id, tenant_id, key.key_id, ())
        return WrappedKey(key.key_id, master_id, _encrypt(self._ciphers[master_id], key._raw, bound))

    def unwrap(self, wrapped: WrappedKey, tenant_id: str) -> DataKey:
        """The key that was wrapped for this tenant.

        Raises :class:`NoEncryptionKeysError`, :class:`UnknownMasterKeyError`, :class:`SealBrokenError`.
        """
        if not self._ciphers:
            raise NoEncryptionKeysError
        cipher = self._ciphers.get(wrapped.master_id)
        if cipher is None:
            raise UnknownMasterKeyError(wrapped.master_id)
        bound = _bound(_WRAPPED, wrapped.master_id, tenant_id, wrapped.key_id, ())
        return DataKey(wrapped.key_id, _decrypt(cipher, wrapped.wrapped, bound, f"the data key {wrapped.key_id}"))


class ProcessVault:
    """Seals for this process alone, with a key that ends with it."""

    durable = False

    def __init__(self) -> None:
        self._key = DataKey.generate()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # copies of what was sealed with it open with it

    def seal(self, purpose: str, place: Sequence[str], plain: bytes) -> str:
        """As :meth:`Vault.seal`."""
        return self._key.seal("", purpose, place, plain)

    def open(self, purpose: str, place: Sequence[str], sealed: str) -> bytes:
        """As :meth:`Vault.open`."""
        return self._key.open("", purpose, place, sealed)


def _cipher(raw: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(raw) != KEY_BYTES:
        raise ConfigurationError(f"an encryption key has {len(raw)} bytes, but must have {KEY_BYTES}")
    return AESGCM(raw)


def _bound(kind: str, key_id: str, tenant_id: str, purpose: str, place: Sequence[str]) -> bytes:
    # As JSON, so that no two lists of texts give the same bytes.
    return codec.canonical([kind, key_id, tenant_id, purpose, *place]).encode()


def _encrypt(cipher: AESGCM, plain: bytes, bound: bytes) -> str:
    nonce = random_bytes(NONCE_BYTES)
    return _text(nonce + cipher.encrypt(nonce, plain, bound))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decrypt(cipher: AESGCM, text: str, bound: bytes, what: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if _text(raw) != text:  # the last character has bits that nothing else would notice
            raise ValueError
        return cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound)
    except (InvalidTag, binascii.Error, ValueError):
        raise SealBrokenError(
            f"{what} does not open: it was changed, or is not where it was sealed for (tenant, owner, field)"
        ) from None
