"""Identities signed as the tenant service would, and certificates, for calls that go round the edge."""

import json
import time
import uuid
from collections.abc import Sequence

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from redoma_cli.local.pki import DevelopmentAuthority
from redoma_kit.identity import ALGORITHM, ISSUER, METADATA_KEY
from redoma_kit.settings import TlsSettings
from redoma_provisioner.settings import ProxySettings

AUDIENCE = ["model", "chat", "tenant", "provisioner"]
SCOPES = ["generate", "conversations"]
LIFETIME_S = 60


def tls_of(authority: DevelopmentAuthority, service: str) -> TlsSettings:
    """Gives the certificate of a service of the public site, to call or to serve with."""
    files = authority.identity(service)
    return TlsSettings(ca_file=files.ca, cert_file=files.certificate, key_file=files.key)


def proxy_files(tls: TlsSettings) -> ProxySettings:
    """Gives the same files as an Envoy's."""
    return ProxySettings.model_validate(tls.model_dump())


class Identities:
    """Signs with a site's own key."""

    def __init__(self, authority: DevelopmentAuthority) -> None:
        self._key = load_pem_private_key(authority.signing_key.read_bytes(), password=None)
        self._key_id = json.loads(authority.jwks.read_text())["keys"][0]["kid"]

    def metadata(self, tenant: str, method: str, scopes: Sequence[str] = SCOPES) -> tuple[tuple[str, str], ...]:
        """Gives the metadata of a call to `method`, a full name such as /package.Service/Method, for a tenant."""
        now = int(time.time())
        claims: dict[str, object] = {"iss": ISSUER, "aud": AUDIENCE, "tenant": tenant, "method": method, "adapter": ""}
        claims |= {"sub": f"tenants/{tenant}/apiKeys/bench", "scopes": list(scopes), "isolation": "SHARED"}
        claims |= {"weight": 100, "models": [], "jti": uuid.uuid4().hex, "iat": now, "exp": now + LIFETIME_S}
        token = jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._key_id})  # type: ignore[arg-type]
        return ((METADATA_KEY, token),)
