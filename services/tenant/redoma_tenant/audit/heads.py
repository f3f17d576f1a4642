"""Signs the end of a chain, so that nobody who can only write to the database can write a chain anew."""

import json
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from redoma_kit.identity import ALGORITHM
from redoma_tenant.audit.chain import Position, chain_name
from redoma_tenant.identity import SigningKey

# Keeps a signed head and a signed identity apart: neither passes for the other.
TYPE = "redoma-audit-head"


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain as it is kept. `signature` is a JWS, empty if the chain has no entry."""

    chain: str
    position: Position
    signature: str


class HeadKeys:
    """Signs with the key that signs identities, and verifies with all keys that services know it by."""

    __slots__ = ("_jwks_file", "_key")

    def __init__(self, key: SigningKey, jwks_file: Path) -> None:
        self._key = key
        self._jwks_file = jwks_file

    def signed(self, chain: str, position: Position) -> Head:
        """Gives the head of a chain that ends at `position`."""
        headers = {"kid": self._key.id, "typ": TYPE}
        claims = _claims(chain, position)
        return Head(chain, position, jwt.encode(claims, self._key.private, algorithm=ALGORITHM, headers=headers))

    def is_ours(self, head: Head) -> bool:
        """Tells whether the signature is one of this service's, over just this chain and position."""
        try:
            header = jwt.get_unverified_header(head.signature)
            if header.get("typ") != TYPE:
                return False
            claims = jwt.decode(head.signature, self._public(str(header.get("kid"))), algorithms=[ALGORITHM])
        except (jwt.InvalidTokenError, jwt.PyJWTError, KeyError, OSError, TypeError, ValueError):
            return False
        return bool(claims == _claims(head.chain, head.position))

    def is_current(self, head: Head) -> bool:
        """Tells whether the signature says it is of the key that signs now."""
        try:
            return bool(jwt.get_unverified_header(head.signature).get("kid") == self._key.id)
        except jwt.InvalidTokenError:
            return False

    def _public(self, key_id: str) -> Ed25519PublicKey | jwt.PyJWK:
        if key_id == self._key.id:
            return self._key.private.public_key()
        keys = {key["kid"]: key for key in json.loads(self._jwks_file.read_bytes())["keys"]}
        return jwt.PyJWK(keys[key_id], algorithm=ALGORITHM)


def _claims(chain: str, position: Position) -> dict[str, object]:
    return {"chain": chain_name(chain), "sequence": position.sequence, "hash": position.hash}
