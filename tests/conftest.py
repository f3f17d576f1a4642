"""Fixtures every kind of test shares: a throw-away authority, certificates of each service, and signed identities."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from redoma_cli.local.pki import DevelopmentAuthority
from redoma_kit.identity import ALGORITHM, ISSUER, METADATA_KEY
from redoma_kit.settings import TlsSettings


@dataclass(frozen=True, slots=True)
class TestPki:
    """A development authority in a folder of its own, and a key that signs identities."""

    __test__ = False

    folder: Path
    authority: DevelopmentAuthority
    signing_key: Ed25519PrivateKey
    jwks_file: Path

    def tls(self, site: str, service: str) -> TlsSettings:
        """Gives the identity files of a service, made on first use."""
        folder = self.authority.issue(site, service)
        return TlsSettings(ca_file=folder / "ca.crt", cert_file=folder / "tls.crt", key_file=folder / "tls.key")

    def mint(
        self,
        audience: Sequence[str],
        *,
        tenant: str = "acme",
        scopes: Sequence[str] = ("generate", "conversations"),
        method: str = "",
        key: Ed25519PrivateKey | None = None,
        **overrides: object,
    ) -> str:
        """Signs an identity as the tenant service would; `overrides` replace claims."""
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": list(audience),
            "sub": f"tenants/{tenant}/apiKeys/test",
            "tenant": tenant,
            "scopes": list(scopes),
            "method": method,
            "isolation": "SHARED",
            "weight": 100,
            "models": [],
            "adapter": "",
            "jti": uuid.uuid4().hex,
            "iat": now,
            "exp": now + 60,
        }
        claims.update(overrides)
        return jwt.encode(claims, key or self.signing_key, algorithm=ALGORITHM, headers={"kid": "test"})

    def metadata(self, audience: Sequence[str], **claims: object) -> tuple[tuple[str, str], ...]:
        """Gives call metadata that carries such an identity."""
        return ((METADATA_KEY, self.mint(audience, **claims)),)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    """A throw-away authority for the session."""
    folder = tmp_path_factory.mktemp("pki")
    signing_key = Ed25519PrivateKey.generate()
    key = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(signing_key.public_key()))
    jwks_file = folder / "jwks.json"
    jwks_file.write_text(json.dumps({"keys": [{**key, "kid": "test", "alg": ALGORITHM, "use": "sig"}]}))
    return TestPki(folder, DevelopmentAuthority(folder / "authority"), signing_key, jwks_file)
