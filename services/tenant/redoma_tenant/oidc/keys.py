"""The public keys of a provider, out of its JWKS document."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MAX_KEYS = 64
MIN_RSA_BITS = 2048
# Public keys alone: with a shared secret, or none, whoever can verify could sign.
ALGORITHMS = frozenset({"RS256", "PS256", "ES256", "EdDSA"})
BY_KIND = {
    ("RSA", ""): ("RS256", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys by algorithm and id. Keys without an id have an empty one."""

    keys: Mapping[tuple[str, str], jwt.PyJWK]

    def find(self, algorithm: str, key_id: str) -> jwt.PyJWK | None:
        """Gives the key of that id; for a token without one, the only key there is for the algorithm."""
        if key_id:
            return self.keys.get((algorithm, key_id))
        fitting = [key for (of, _), key in self.keys.items() if of == algorithm]
        return fitting[0] if len(fitting) == 1 else None


def read_key_set(document: Mapping[str, Any]) -> KeySet:
    """Reads the keys that can verify tokens; those of other kinds and weak ones are passed over.

    Raises:
        ValueError: It is no key set, or has too many keys.
    """
    entries = document.get("keys")
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError("no key set, or too large a one")
    keys: dict[tuple[str, str], jwt.PyJWK] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        for algorithm in _algorithms(entry):
            key = _key(entry, algorithm)
            if key is not None:
                keys[algorithm, str(entry.get("kid", ""))] = key
    return KeySet(keys)


def _algorithms(entry: Mapping[str, Any]) -> tuple[str, ...]:
    curve = entry.get("crv", "") if entry.get("kty") != "RSA" else ""
    possible = BY_KIND.get((str(entry.get("kty")), str(curve)), ())
    return tuple(algorithm for algorithm in possible if entry.get("alg", algorithm) == algorithm)


def _key(entry: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    try:
        key = jwt.PyJWK(entry, algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < MIN_RSA_BITS:
        return None
    return key
