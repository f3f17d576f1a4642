"""Identities signed as the tenant service would, for calls that go round the edge."""

import json
import time
import uuid
from collections.abc import Sequence

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from redoma_cli.local.pki import DevelopmentAuthority
from redoma_kit.identity import ALGORITHM, ISSUER, METADATA_KEY

AUDIENCE = ["model", "chat", "tenant"]
SCOPES = ["generate", "conversations"]
LIFETIME_S = 60


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
