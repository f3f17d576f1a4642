"""An identity provider on this machine: discovery and keys over HTTP, and tokens that are really signed."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
DISCOVERY = "/.well-known/openid-configuration"
KEYS = "/keys"


def new_private_key(algorithm: str) -> PrivateKey:
    """Makes a key that signs with the algorithm."""
    if algorithm in ("RS256", "PS256"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def public_jwk(key: PrivateKey) -> dict[str, Any]:
    """Gives the public half as a member of a key set."""
    if isinstance(key, rsa.RSAPrivateKey):
        return dict(RSAAlgorithm.to_jwk(key.public_key(), as_dict=True))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return dict(ECAlgorithm.to_jwk(key.public_key(), as_dict=True))
    return dict(OKPAlgorithm.to_jwk(key.public_key(), as_dict=True))


@dataclass(slots=True)
class OidcProvider:
    """Serves until stopped; what it answers and signs can be bent by a test.

    Attributes:
        keys: What it signs with, by key id; the last one signs.
        answers: Replaces what is answered at a path: a status and a body.
        asked: The paths that were asked for.
    """

    audience: str = "redoma"
    algorithm: str = "ES256"
    keys: dict[str, PrivateKey] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    now: Callable[[], float] = time.time
    port: int = 0
    _server: asyncio.Server | None = None
    _made: int = 0

    @property
    def issuer(self) -> str:
        """Its issuer."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Begins to answer, at the same port as before."""
        if not self.keys:
            self.rotate()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops answering."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def rotate(self, keep: bool = False) -> None:
        """Signs with a new key from now on, and shows the former ones no longer unless they are kept."""
        self._made += 1
        former = self.keys if keep else {}
        self.keys = {**former, f"key-{self._made}": new_private_key(self.algorithm)}

    def token(self, **overrides: Any) -> str:
        """Signs a token for an hour; `overrides` replace claims, None removes one, `kid` and `key` are the header's."""
        key_id, key = list(self.keys.items())[-1]
        headers = {"kid": overrides.pop("kid", key_id)}
        key, algorithm = overrides.pop("key", key), overrides.pop("alg", self.algorithm)
        now = int(self.now())
        claims = {"iss": self.issuer, "aud": self.audience, "sub": "ana", "iat": now, "exp": now + 3600} | overrides
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key, algorithm=algorithm, headers=headers if headers["kid"] else None)

    def key_set(self) -> dict[str, Any]:
        """Gives its public keys."""
        return {"keys": [public_jwk(key) | {"kid": key_id, "use": "sig"} for key_id, key in self.keys.items()]}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            self.asked.append(path)
            status, body = self.answers.get(path) or self._answer(path)
            writer.write(f"HTTP/1.1 {status} x\r\nlocation: /elsewhere\r\ncontent-length: {len(body)}\r\n".encode())
            writer.write(b"connection: close\r\n\r\n" + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _answer(self, path: str) -> tuple[int, bytes]:
        documents = {
            DISCOVERY: {"issuer": self.issuer, "jwks_uri": f"{self.issuer}{KEYS}"},
            KEYS: self.key_set(),
        }
        return (200, json.dumps(documents[path]).encode()) if path in documents else (404, b"")
