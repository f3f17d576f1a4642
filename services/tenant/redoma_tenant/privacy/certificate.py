"""The certificate of an erasure: a JWS that anyone can verify with the key set that identities are verified with."""

import jwt

from redoma_kit.identity import ALGORITHM, ISSUER
from redoma_tenant.identity import SigningKey
from redoma_tenant.privacy.erasures import Erasure

TYPE = "redoma-erasure+jwt"


def certificate_of(erasure: Erasure, key: SigningKey) -> str:
    """Gives the signed certificate of a complete erasure. It names places, times and counts, and no content."""
    complete_time = erasure.complete_time
    if complete_time is None:
        raise ValueError("only a complete erasure is certified")
    claims = {
        "iss": ISSUER,
        "sub": erasure.name,
        "tenant": erasure.subject.tenant,
        "principal": erasure.subject.principal,
        "purpose": erasure.purpose,
        "request_time": erasure.create_time.isoformat(),
        "complete_time": complete_time.isoformat(),
        "iat": int(complete_time.timestamp()),
        "places": [
            {
                "place": step.place,
                "acknowledge_time": step.acknowledge_time.isoformat() if step.acknowledge_time else None,
                "erased": dict(step.erased or {}),
            }
            for step in erasure.steps
        ],
        "kept": ["ledger", "usage", "audit"],
    }
    return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.id, "typ": TYPE})
