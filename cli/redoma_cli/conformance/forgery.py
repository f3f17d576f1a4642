"""Identities that nobody gave out."""

import base64
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from redoma_cli.conformance.http_client import Headers
from redoma_cli.conformance.lab import LabTenant
from redoma_kit.identity import ISSUER, METADATA_KEY

AUDIENCE = ("chat", "tenant", "model", "redoma-chat", "redoma-tenant", "redoma-model")
SERVICES = "URI=spiffe://redoma/public/chat;By=spiffe://redoma/public/tenant"


@dataclass(frozen=True, slots=True)
class Forgery:
    """One way to say that one is somebody.

    Attributes:
        name: What it is, for people.
        headers: What is sent next to a good key.
        places: What is sent without one, and where in the request that puts it.
    """

    name: str
    headers: Headers
    places: tuple[tuple[Headers, str], ...]


def forged_tokens(victim: LabTenant) -> Iterator[Forgery]:
    """Gives tokens for the victim and for the operator: unsigned, signed by others, and expired."""
    now = int(time.time())
    whose: Mapping[str, Mapping[str, object]] = {
        "another tenant": {"sub": victim.key.name, "tenant": victim.id, "scopes": ["generate", "conversations"]},
        "the operator": {"sub": "platform/bootstrap", "tenant": "", "scopes": ["platform.admin"]},
    }
    for whom, own in whose.items():
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": list(AUDIENCE),
            "method": "",
            "isolation": "SHARED",
            "weight": 100,
            "models": [],
            "adapter": "",
            "jti": uuid.uuid4().hex,
            "iat": now,
            "exp": now + 60,
            **own,
        }
        yield _token(f"an unsigned token of {whom}", _unsigned(claims))
        yield _token(f"a token of {whom} signed by a key of one's own", _signed(claims))
        yield _token(f"an expired token of {whom}", _signed({**claims, "iat": now - 7_200, "exp": now - 7_140}))
        yield _token(f"a token of {whom} signed with an empty secret", _symmetric(claims))


def forged_headers(victim: LabTenant) -> Iterator[Forgery]:
    """Gives headers that proxies and services set among themselves."""
    for name, value in (
        ("x-tenant-id", victim.id),
        ("x-redoma-tenant", victim.id),
        ("x-node-id", "model"),
        ("x-cluster-id", "edge"),
        ("x-forwarded-client-cert", SERVICES),
        ("x-client-cert", SERVICES),
        ("x-ssl-client-cert", SERVICES),
        ("x-forwarded-user", victim.key.name),
        (METADATA_KEY, json.dumps({"tenant": victim.id, "scopes": ["platform.admin"]})),
    ):
        headers = ((name, value),)
        yield Forgery(f"the header {name}", headers, ((headers, "alone"),))


def _token(name: str, token: str) -> Forgery:
    identity = ((METADATA_KEY, token),)
    return Forgery(name, identity, ((identity, "as identity"), ((("authorization", f"Bearer {token}"),), "as bearer")))


def _signed(claims: Mapping[str, object]) -> str:
    key = Ed25519PrivateKey.generate()
    return jwt.encode(dict(claims), key, algorithm="EdDSA", headers={"kid": "identity"})


def _symmetric(claims: Mapping[str, object]) -> str:
    return f"{_unsigned(claims, 'HS256')}{_encoded(b'0' * 32)}"


def _unsigned(claims: Mapping[str, object], algorithm: str = "none") -> str:
    header = {"alg": algorithm, "typ": "JWT", "kid": "identity"}
    return f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(dict(claims)).encode())}."


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
