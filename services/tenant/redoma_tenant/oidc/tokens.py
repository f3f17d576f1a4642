"""Reads and verifies tokens: JWTs signed with a public key of the provider, and nothing else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import jwt
import jwt.types

from redoma_tenant.oidc.keys import ALGORITHMS

# Three parts of base64url. An API key has no dot.
TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
MAX_TOKEN_BYTES = 16 << 10
# Of an issuer and of a subject, as columns have them.
MAX_NAME_CHARACTERS = 255
LEEWAY_S = 60.0

Claims = Mapping[str, object]


class TokenInvalid(Exception):
    """The token can't be relied on; the message says why, for the log."""


class TokenExpired(TokenInvalid):
    """The token was good once."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says before its signature is checked; good to find provider and key by, and for nothing else.

    `party` is the audience that it was made for, empty unless it says so.
    """

    algorithm: str
    key_id: str
    issuer: str
    audiences: tuple[str, ...]
    party: str


def has_token_form(credential: str) -> bool:
    """Says whether a credential is to be read as a token."""
    return len(credential) <= MAX_TOKEN_BYTES and TOKEN.fullmatch(credential) is not None


def read_unverified(token: str) -> Unverified:
    """Reads what a token says of its key and its issuer.

    Raises:
        TokenInvalid: It is malformed, or signed in a way that is not taken.
    """
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise TokenInvalid("malformed") from error
    header, claims = parts["header"], parts["payload"]
    algorithm, issuer = str(header.get("alg")), claims.get("iss")
    if algorithm not in ALGORITHMS or "crit" in header:
        raise TokenInvalid("signed in a way that is not taken")
    if not isinstance(issuer, str) or not _can_be_kept(issuer):
        raise TokenInvalid("without an issuer")
    return Unverified(algorithm, str(header.get("kid", "")), issuer, audiences_in(claims), str(claims.get("azp", "")))


def audiences_in(claims: Claims) -> tuple[str, ...]:
    """Gives the audiences of a token."""
    audience = claims.get("aud")
    if isinstance(audience, str):
        return (audience,)
    return tuple(one for one in audience if isinstance(one, str)) if isinstance(audience, list) else ()


def verify(token: str, key: jwt.PyJWK, algorithm: str, issuer: str, audience: str, now: datetime) -> Claims:
    """Checks signature, issuer, audience, authorized party and times, and gives the claims.

    Raises:
        TokenExpired: All else is well.
        TokenInvalid: Something of it does not hold.
    """
    # PyJWT would compare with its own clock.
    options: jwt.types.Options = {
        "require": ["iss", "aud", "sub", "exp"],
        "verify_exp": False,
        "verify_iat": False,
        "verify_nbf": False,
    }
    try:
        claims: Claims = jwt.decode(
            token, key, algorithms=[algorithm], audience=audience, issuer=issuer, options=options
        )
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise TokenInvalid("does not verify") from error
    subject = claims["sub"]
    if not isinstance(subject, str) or not _can_be_kept(subject):
        raise TokenInvalid("without a usable subject")
    if len(audiences_in(claims)) > 1 and claims.get("azp") != audience:
        raise TokenInvalid("of several audiences, and made for another party")
    _check_times(claims, now.timestamp())
    return claims


def expiry_s(claims: Claims) -> float:
    """Gives when verified claims expire, in seconds since the epoch, without leeway."""
    return _seconds(claims, "exp") or 0.0


def _can_be_kept(text: str) -> bool:
    return 1 <= len(text) <= MAX_NAME_CHARACTERS and text.isprintable()


def _check_times(claims: Claims, now_s: float) -> None:
    for name in ("iat", "nbf"):
        begin_s = _seconds(claims, name)
        if begin_s is not None and begin_s > now_s + LEEWAY_S:
            raise TokenInvalid("not valid yet")
    if expiry_s(claims) + LEEWAY_S <= now_s:
        raise TokenExpired("expired")


def _seconds(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise TokenInvalid(f"with no time in {name}")
    return float(value)
