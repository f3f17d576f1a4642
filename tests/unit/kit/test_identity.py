"""The verifier follows its key set file, and the clock's leeway is 30 s."""

import json
import shutil
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from redoma_cli.local.pki import public_jwk
from redoma_kit.errors import CredentialInvalid, TenantMismatch
from redoma_kit.identity import IdentityVerifier
from tests.conftest import TestPki


def test_rotated_key_is_accepted_once_the_file_names_it(pki: TestPki, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    shutil.copy(pki.jwks_file, file)
    verifier = IdentityVerifier(file, "chat")
    verifier.verify(pki.mint(["chat"]))
    fresh = Ed25519PrivateKey.generate()
    jwk = public_jwk(fresh.public_key())
    claims = jwt.decode(pki.mint(["chat"]), options={"verify_signature": False})
    token = jwt.encode(claims, fresh, algorithm="EdDSA", headers={"kid": jwk["kid"]})
    with pytest.raises(CredentialInvalid):
        verifier.verify(token)
    file.write_text(json.dumps({"keys": [*json.loads(file.read_text())["keys"], jwk]}))
    assert verifier.verify(token).tenant == "acme"
    assert verifier.verify(pki.mint(["chat"])).tenant == "acme"


@pytest.mark.parametrize("damage", ["", "{", '{"keys": [{"kid": "x", "kty": "oct"}]}', None])
def test_damaged_key_set_leaves_the_former_keys_in_force(pki: TestPki, tmp_path: Path, damage: str | None) -> None:
    file = tmp_path / "jwks.json"
    shutil.copy(pki.jwks_file, file)
    verifier = IdentityVerifier(file, "chat")
    verifier.verify(pki.mint(["chat"]))
    if damage is None:
        file.unlink()
    else:
        file.write_text(damage)
    assert verifier.verify(pki.mint(["chat"])).tenant == "acme"


@pytest.mark.parametrize(("age_s", "accepted"), [(0, True), (89, True), (91, False), (-29, True), (-31, False)])
def test_lifetime_has_thirty_seconds_of_leeway(pki: TestPki, age_s: int, accepted: bool) -> None:
    issued = 1_000_000
    verifier = IdentityVerifier(pki.jwks_file, "chat", now=lambda: issued + age_s)
    token = pki.mint(["chat"], iat=issued, exp=issued + 60)
    if accepted:
        verifier.verify(token)
    else:
        with pytest.raises(CredentialInvalid):
            verifier.verify(token)


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_token_of_another_algorithm_is_refused(pki: TestPki, algorithm: str) -> None:
    claims = jwt.decode(pki.mint(["chat"]), options={"verify_signature": False})
    public = public_jwk(pki.signing_key.public_key())["x"]
    key = None if algorithm == "none" else public
    token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": pki.key_id})
    with pytest.raises(CredentialInvalid):
        IdentityVerifier(pki.jwks_file, "chat").verify(token)


def test_tenant_is_checked_and_operators_pass(pki: TestPki) -> None:
    verifier = IdentityVerifier(pki.jwks_file, "tenant")
    tenant = verifier.verify(pki.mint(["tenant"]))
    tenant.check_tenant("acme")
    with pytest.raises(TenantMismatch):
        tenant.check_tenant("globex")
    verifier.verify(pki.mint(["tenant"], tenant="", scopes=("platform.admin",))).check_tenant("globex")
