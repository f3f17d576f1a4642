"""How a text is encrypted for one place in the database: AES-256-GCM, bound to that place.

Each row has a key of its own, derived from the tenant's content key, and each encryption a random nonce of 96 bits. An
answer is encrypted once a second while it streams, so a key encrypts some thousand times at most, far below the 2^32
that NIST SP 800-38D sets for random nonces, however much a tenant writes.
"""

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
VERSION_BYTES = 4
# No UTF-8 text begins with this byte, so a text that was never encrypted can be told from a sealed one.
SEALED = b"\xff"
FORMAT = b"\x01"
HEADER_BYTES = len(SEALED) + len(FORMAT) + VERSION_BYTES
# How much longer a sealed text is than its UTF-8.
OVERHEAD_BYTES = HEADER_BYTES + NONCE_BYTES + TAG_BYTES
PLAIN_VERSION = 0


class UnsealFailed(Exception):
    """What is kept was damaged, swapped, or sealed with another key."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The place of a text: a column of a row that belongs to a principal of a tenant."""

    tenant: str
    principal: str
    table: str
    row_id: str
    column: str


class ContentKey:
    """A version of a tenant's content key. Versions count from 1."""

    __slots__ = ("_secret", "version")

    def __init__(self, version: int, secret: bytes) -> None:
        self.version = version
        self._secret = secret

    def seal(self, cell: Cell, text: str) -> bytes:
        """Encrypts a text for its place. An empty text stays empty, so that its place can be searched for."""
        if not text:
            return b""
        header = SEALED + FORMAT + self.version.to_bytes(VERSION_BYTES, "big")
        nonce = os.urandom(NONCE_BYTES)
        return header + nonce + self._cipher(cell).encrypt(nonce, text.encode(), _bound(header, cell))

    def unseal(self, cell: Cell, sealed: bytes) -> str:
        """Decrypts what `seal` gave for the same place.

        Raises:
            UnsealFailed: It was damaged, or is not what this key sealed for this place.
        """
        header, nonce = sealed[:HEADER_BYTES], sealed[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES]
        try:
            text = self._cipher(cell).decrypt(nonce, sealed[HEADER_BYTES + NONCE_BYTES :], _bound(header, cell))
        except (InvalidTag, ValueError):
            raise UnsealFailed() from None
        return text.decode()

    def _cipher(self, cell: Cell) -> AESGCM:
        row = _joined(b"row key", cell.tenant.encode(), cell.table.encode(), cell.row_id.encode())
        return AESGCM(HKDFExpand(hashes.SHA256(), KEY_BYTES, row).derive(self._secret))


def is_sealed(kept: bytes) -> bool:
    """Whether a text was encrypted; one that a release without encryption wrote was not."""
    return kept.startswith(SEALED)


def sealed_version(sealed: bytes) -> int:
    """Gives the version of the key that sealed a text.

    Raises:
        UnsealFailed: It is of a newer release, or damaged.
    """
    if len(sealed) < OVERHEAD_BYTES or sealed[len(SEALED) : len(SEALED) + len(FORMAT)] != FORMAT:
        raise UnsealFailed()
    return int.from_bytes(sealed[HEADER_BYTES - VERSION_BYTES : HEADER_BYTES], "big")


def _bound(header: bytes, cell: Cell) -> bytes:
    parts = (cell.tenant, cell.principal, cell.table, cell.row_id, cell.column)
    return _joined(header, *(part.encode() for part in parts))


def _joined(*parts: bytes) -> bytes:
    """Joins parts so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
