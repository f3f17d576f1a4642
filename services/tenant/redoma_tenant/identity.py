"""Signs the identity that travels with an admitted call."""

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from redoma_kit.identity import ALGORITHM, ISSUER, MAX_LIFETIME_S, PLATFORM_ADMIN
from redoma_tenant.errors import CannotStart

SHARED = "SHARED"
DEFAULT_WEIGHT = 100


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a credential stands for.

    Attributes:
        name: Resource name of the key, or `platform/bootstrap`.
        tenant: Id of the tenant; empty for a platform operator.
        scopes: All that the credential may do.
        weight: The tenant's share of the model, relative to others'.
        isolation: How the tenant is kept apart: SHARED, SHARED_TUNED or DEDICATED.
        models: Ids of the models it may use; empty is all.
        adapter: Digest of the tenant's adapter; empty is none.
    """

    name: str
    tenant: str
    scopes: frozenset[str]
    weight: int
    isolation: str = SHARED
    models: tuple[str, ...] = ()
    adapter: str = ""

    @classmethod
    def operator(cls, name: str) -> "Principal":
        """Gives one of no tenant who may do all that operators may."""
        return cls(name, "", frozenset({PLATFORM_ADMIN}), DEFAULT_WEIGHT)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key and its id, the RFC 7638 thumbprint of its public half."""

    private: Ed25519PrivateKey
    id: str


def load_signing_key(key_file: Path, jwks_file: Path) -> SigningKey:
    """Reads the signing key and checks that verifiers can know it.

    Raises:
        CannotStart: The key can't be read, or its public half is not in the key set.
    """
    try:
        private = load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CannotStart(f"The signing key {key_file} can't be read: {_why(error)}.") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise CannotStart(f"The signing key {key_file} is not an Ed25519 key.")
    key = SigningKey(private, _thumbprint(private))
    try:
        known = {entry["kid"] for entry in json.loads(jwks_file.read_bytes())["keys"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotStart(f"The key set {jwks_file} can't be read: {_why(error)}.") from error
    if key.id not in known:
        raise CannotStart(
            f"The key set {jwks_file} lacks the public half of {key_file} (kid {key.id}), so nobody could verify "
            "identities; write it there first."
        )
    return key


class IdentityMinter:
    """Signs identities that live at most MAX_LIFETIME_S seconds."""

    __slots__ = ("_header", "_key", "_now")

    def __init__(self, key: SigningKey, now: Callable[[], datetime]) -> None:
        self._key = key
        self._now = now
        self._header = _base64url(_json({"alg": ALGORITHM, "kid": key.id, "typ": "JWT"}))

    def mint(self, principal: Principal, scopes: frozenset[str], method: str, audience: Sequence[str]) -> str:
        """Gives the JWT that lets `principal` call `method` with `scopes` only."""
        issued_at = int(self._now().timestamp())
        claims = {
            "iss": ISSUER,
            "aud": list(audience),
            "sub": principal.name,
            "tenant": principal.tenant,
            "scopes": sorted(scopes),
            "method": method,
            "isolation": principal.isolation,
            "weight": principal.weight,
            "models": list(principal.models),
            "adapter": principal.adapter,
            "jti": uuid.uuid4().hex,
            "iat": issued_at,
            "exp": issued_at + MAX_LIFETIME_S,
        }
        # This is on every request's way, so the header is made once and the signature asked of the key itself.
        signed = f"{self._header}.{_base64url(_json(claims))}"
        return f"{signed}.{_base64url(self._key.private.sign(signed.encode()))}"

    def minted_as(self, name: str, audience: Sequence[str]) -> Callable[[str], str]:
        """Gives what signs, for a method, the identity that this service itself calls another with, as `name`."""
        principal = Principal.operator(name)
        return lambda method: self.mint(principal, principal.scopes, method, audience)


def _thumbprint(private: Ed25519PrivateKey) -> str:
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    members = _json({"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)})
    return _base64url(hashlib.sha256(members).digest())


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _why(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else "it has the wrong form"
