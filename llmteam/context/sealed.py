"""A value that only its owner may read: kept encrypted, also in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Self

from llmteam import codec
from llmteam.context.exceptions import SealedDataAccessError
from llmteam.crypto import ProcessVault, Vault, key_id_of
from llmteam.ids import as_utc, utc_now
from llmteam.masking import masked, texts_in, unmasked

#: What the key of a sealed value authenticates beside its place.
PURPOSE = "context"


@cache
def process_vault() -> Vault:
    """The vault of what nobody gave another one; what it sealed ends with the process."""
    return ProcessVault()


class SealedData:
    """A JSON value that only ``owner_id`` may read.

    It holds no plain value: text form, pickle and copies show or carry the encrypted one. Who runs in the same process
    can read any memory, so this guards against mistakes, and against everybody outside of the process.

    Args:
        vault: encrypts it; by default a key of this process, which ends with it.
        place: what it belongs to, beside its owner; it opens for the same place only.

    Raises :class:`NotJSONError`, and what the vault raises.
    """

    __slots__ = ("_place", "_token", "_vault", "created_at", "owner_id")

    def __init__(
        self,
        _data: Any,
        owner_id: str = "",
        encryption_key_id: str = "",
        created_at: datetime | None = None,
        *,
        vault: Vault | None = None,
        place: Sequence[str] = (),
    ) -> None:
        vault = vault or process_vault()
        text = codec.dumps(unmasked(_data), path="$.sealed")
        self._keep(vault.seal(PURPOSE, (*place, owner_id), text.encode()), owner_id, created_at, vault, tuple(place))

    def _keep(
        self, token: str, owner_id: str, created_at: datetime | None, vault: Vault | None, place: tuple[str, ...]
    ) -> None:
        self._token = token
        self.owner_id = owner_id
        self.created_at = as_utc(created_at or utc_now())
        self._vault = vault
        self._place = place

    @property
    def encryption_key_id(self) -> str:
        """The id of the key that encrypts it."""
        return key_id_of(self._token)

    def is_owner(self, requester_id: str) -> bool:
        return requester_id == self.owner_id

    def get(self, requester_id: str) -> Any:
        """The value, its texts masked wherever they are shown.

        Raises :class:`SealedDataAccessError` for everybody but the owner, :class:`CryptoError` kinds when it does not
        open.
        """
        if not self.is_owner(requester_id):
            raise SealedDataAccessError(self.owner_id, requester_id)
        return masked(self._value())

    def texts(self) -> set[str]:
        """Every text in the value, for taking them out of what others see. Raises as :meth:`get`."""
        return texts_in(self._value())

    def _value(self) -> Any:
        vault = self._vault or process_vault()
        return codec.loads(vault.open(PURPOSE, (*self._place, self.owner_id), self._token))

    def moved(self, vault: Vault, place: Sequence[str]) -> SealedData:
        """The same value, encrypted by another vault for another place. Raises as :meth:`get`."""
        return SealedData(self._value(), self.owner_id, "", self.created_at, vault=vault, place=place)

    def to_document(self) -> dict[str, Any]:
        """The encrypted value as JSON."""
        return {"token": self._token, "owner_id": self.owner_id, "created_at": self.created_at.isoformat()}

    @classmethod
    def from_document(
        cls, document: Mapping[str, Any], *, vault: Vault | None = None, place: Sequence[str] = ()
    ) -> Self:
        """The value of :meth:`to_document`; opened by ``vault`` when it is read."""
        self = cls.__new__(cls)
        created_at = datetime.fromisoformat(document["created_at"])
        self._keep(document["token"], document["owner_id"], created_at, vault, tuple(place))
        return self

    def __repr__(self) -> str:
        return f"SealedData(owner_id={self.owner_id!r}, value=REDACTED)"

    def __str__(self) -> str:
        return f"[SEALED by {self.owner_id}]"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # The vault stays behind: it holds keys.
        return _rebuilt, (type(self), self.to_document(), self._place)


def _rebuilt(cls: type[SealedData], document: Mapping[str, Any], place: tuple[str, ...]) -> SealedData:
    return cls.from_document(document, place=place)
