"""The signed identity that travels with every call, and its verification.

The tenant service mints an EdDSA JWT for each call that the edge lets in. Every service verifies it on arrival and
keeps the result in a ContextVar for the handler. `exp` is checked when the call starts, not mid-stream.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import jwt

from redoma_kit.errors import CredentialInvalid, TenantMismatch

METADATA_KEY = "redoma-identity"
ISSUER = "redoma"
ALGORITHM = "EdDSA"
LEEWAY_S = 30
MAX_LIFETIME_S = 60
PLATFORM_ADMIN = "platform.admin"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a call is made for.

    Attributes:
        principal: Resource name of the key or user, such as `tenants/acme/apiKeys/01j`.
        tenant: Id of the tenant; empty for a platform operator.
        scopes: What the call may do.
        method: Full name of the gRPC method the edge let in.
        isolation: How the tenant is kept apart: SHARED, SHARED_TUNED or DEDICATED.
        weight: The tenant's share of the model, relative to others'.
        models: Ids of the models it may use; empty is all.
        adapter: Digest of its adapter; empty is none.
        token_id: `jti`, unique to the call.
        token: The JWT itself, to pass on.
    """

    principal: str
    tenant: str
    scopes: frozenset[str]
    method: str
    isolation: str
    weight: int
    models: tuple[str, ...]
    adapter: str
    token_id: str
    token: str

    def check_tenant(self, tenant: str) -> None:
        """Raises TenantMismatch unless the identity acts for `tenant` or administers the platform."""
        if tenant != self.tenant and PLATFORM_ADMIN not in self.scopes:
            raise TenantMismatch()


_identity: ContextVar[Identity | None] = ContextVar("redoma_identity", default=None)


def current_identity() -> Identity:
    """Gives the identity of the call being handled.

    Raises:
        CredentialInvalid: The method's rule requires none, so none was verified.
    """
    identity = _identity.get()
    if identity is None:
        raise CredentialInvalid("The call carries no identity.")
    return identity


def set_current_identity(identity: Identity | None) -> None:
    """Sets the identity of the call being handled; for the identity interceptor."""
    _identity.set(identity)


class IdentityVerifier:
    """Verifies identities against a JWKS file, which it reads again when the file changes.

    A key set that becomes unreadable leaves the former keys in force.
    """

    __slots__ = ("_audience", "_jwks_file", "_keys", "_now", "_stamp")

    def __init__(self, jwks_file: Path, audience: str, now: Callable[[], float] = time.time) -> None:
        self._jwks_file = jwks_file
        self._audience = audience
        self._now = now
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._stamp = (0, 0, 0)

    def verify(self, token: str) -> Identity:
        """Checks signature, issuer, audience, lifetime and the presence of every claim.

        Raises:
            CredentialInvalid: Any of them does not hold.
        """
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(str(header.get("kid", "")))
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=ISSUER,
                options={
                    "require": ["iss", "aud", "sub", "iat", "exp", "jti"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            self._check_lifetime(float(claims["iat"]), float(claims["exp"]))
            return Identity(
                principal=_text(claims, "sub"),
                tenant=_text(claims, "tenant"),
                scopes=frozenset(_texts(claims, "scopes")),
                method=_text(claims, "method"),
                isolation=_text(claims, "isolation"),
                weight=int(claims["weight"]),
                models=tuple(_texts(claims, "models")),
                adapter=_text(claims, "adapter"),
                token_id=_text(claims, "jti"),
                token=token,
            )
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as error:
            raise CredentialInvalid("The call's identity does not verify.") from error

    def _check_lifetime(self, issued_at: float, expires_at: float) -> None:
        now = self._now()
        if expires_at - issued_at > MAX_LIFETIME_S:
            raise jwt.InvalidTokenError("lives too long")
        if now > expires_at + LEEWAY_S or now < issued_at - LEEWAY_S:
            raise jwt.ExpiredSignatureError("is expired or not yet valid")

    def _key(self, key_id: str) -> jwt.PyJWK:
        self._reload()
        return self._keys[key_id]

    def _reload(self) -> None:
        try:
            stat = self._jwks_file.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp != self._stamp:
                keys = json.loads(self._jwks_file.read_bytes())["keys"]
                self._keys = {key["kid"]: jwt.PyJWK(key, algorithm=ALGORITHM) for key in keys}
                self._stamp = stamp
        except (OSError, ValueError, KeyError, TypeError, jwt.PyJWTError):
            return


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _texts(claims: Mapping[str, object], name: str) -> list[str]:
    value = claims[name]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(name)
    return value
