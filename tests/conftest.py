"""Fixtures every kind of test shares: a throw-away authority, certificates of each service, and signed identities."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from redoma_cli.local.pki import PUBLIC_SERVICES, DevelopmentAuthority, public_jwk
from redoma_kit.identity import ALGORITHM, ISSUER, METADATA_KEY
from redoma_kit.settings import TlsSettings

pytest_plugins = ["tests.fakes.postgres"]
# The services of a public site, and of a private one that the same authority made certificates for.
SITES = {**PUBLIC_SERVICES, "model": "private", "gateway": "private"}


@dataclass(frozen=True, slots=True)
class TestPki:
    """A development authority in a folder of its own, and a key that signs identities."""

    __test__ = False

    authority: DevelopmentAuthority
    signing_key: Ed25519PrivateKey
    key_id: str

    def tls(self, site: str, service: str) -> TlsSettings:
        """Gives the identity files of a service."""
        assert SITES[service] == site
        files = self.authority.identity(service)
        return TlsSettings(ca_file=files.ca, cert_file=files.certificate, key_file=files.key)

    @property
    def jwks_file(self) -> Path:
        """The public half of `signing_key`."""
        return self.authority.jwks

    def mint(
        self,
        audience: Sequence[str],
        *,
        tenant: str = "acme",
        scopes: Sequence[str] | None = ("generate", "conversations"),
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
            "scopes": scopes and list(scopes),
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
        return jwt.encode(claims, key or self.signing_key, algorithm=ALGORITHM, headers={"kid": self.key_id})

    def metadata(self, audience: Sequence[str], **claims: object) -> tuple[tuple[str, str], ...]:
        """Gives call metadata that carries such an identity."""
        return ((METADATA_KEY, self.mint(audience, **claims)),)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    """A throw-away authority for the session."""
    authority = DevelopmentAuthority(tmp_path_factory.mktemp("pki"), services=SITES)
    authority.ensure()
    signing_key = load_pem_private_key(authority.signing_key.read_bytes(), password=None)
    assert isinstance(signing_key, Ed25519PrivateKey)
    return TestPki(authority, signing_key, public_jwk(signing_key.public_key())["kid"])
