"""The trust bundle, believed only when it is the authority's, for this site, and not an old one."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redoma_provisioner.errors import CannotStart
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.bundle import (
    MAX_BUNDLE_BYTES,
    BundleOutdated,
    BundleRefused,
    TrustBundle,
    TrustContent,
    authorities_pem,
    sign_bundle,
    verify_bundle,
)
from redoma_provisioner.trust.identity_keys import IdentityKeys
from tests.fakes.trust_parties import MovedClock, make_authority

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TIME = datetime(2026, 11, 20, tzinfo=UTC)


def _bundle(authority: Authority, sequence: int = 7) -> TrustBundle:
    content = TrustContent(authorities_pem(authority), {"keys": [{"kid": "k"}]}, ("ab", "cd"))
    return TrustBundle(sequence, "hospital-a", content, TIME)


def _signed(authority: Authority, payload: Any) -> str:
    return jwt.PyJWS(algorithms=["ES256"]).encode(json.dumps(payload).encode(), authority.key, algorithm="ES256")


def test_a_bundle_is_read_as_it_was_signed(authority: Authority) -> None:
    bundle = _bundle(authority)
    assert verify_bundle(sign_bundle(authority, bundle), authority.certificates, "hospital-a", 7) == bundle


def test_a_bundle_of_another_authority_is_refused(authority: Authority, tmp_path: Path, clock: MovedClock) -> None:
    other = make_authority(tmp_path / "other", clock)
    with pytest.raises(BundleRefused, match="not signed by an authority"):
        verify_bundle(sign_bundle(other, _bundle(authority)), authority.certificates, "hospital-a", 0)
    assert verify_bundle(
        sign_bundle(other, _bundle(other)), [authority.certificate, other.certificate], "hospital-a", 0
    )


def test_a_bundle_of_another_site_is_refused(authority: Authority) -> None:
    with pytest.raises(BundleRefused, match="another site"):
        verify_bundle(sign_bundle(authority, _bundle(authority)), authority.certificates, "hospital-b", 0)


def test_an_old_bundle_is_refused(authority: Authority) -> None:
    with pytest.raises(BundleOutdated):
        verify_bundle(sign_bundle(authority, _bundle(authority)), authority.certificates, "hospital-a", 8)


def test_a_bundle_that_is_too_large_is_refused_unread(authority: Authority) -> None:
    with pytest.raises(BundleRefused, match="bytes"):
        verify_bundle("x" * (MAX_BUNDLE_BYTES + 1), authority.certificates, "hospital-a", 0)


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_signature_that_needs_no_private_key_is_refused(authority: Authority, algorithm: str) -> None:
    payload = json.dumps({"sequence": 9}).encode()
    key = "" if algorithm == "none" else "a public thing that everybody may know"
    text = jwt.PyJWS().encode(payload, key or None, algorithm=algorithm)  # type: ignore[arg-type]
    with pytest.raises(BundleRefused):
        verify_bundle(text, authority.certificates, "hospital-a", 0)


@FUZZ
@given(place=st.integers(0, 400), character=st.characters())
def test_one_character_changed_is_noticed(authority: Authority, place: int, character: str) -> None:
    text = sign_bundle(authority, _bundle(authority))
    changed = text[:place] + character + text[place + 1 :]
    if changed == text:
        return
    with pytest.raises(BundleRefused):
        verify_bundle(changed, authority.certificates, "hospital-a", 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("sequence", "site", "authorities", "identity_keys", "revoked", "issued_at")


@FUZZ
@given(payload=JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)))
def test_whatever_the_authority_signs_is_a_bundle_or_refused(authority: Authority, payload: object) -> None:
    with pytest.raises(BundleRefused):
        verify_bundle(_signed(authority, payload), authority.certificates, "hospital-a", 0)


@FUZZ
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_a_bundle_with_one_field_spoiled_is_a_bundle_or_refused(
    authority: Authority, field: str, value: object
) -> None:
    good = json.loads(
        jwt.PyJWS().decode(sign_bundle(authority, _bundle(authority)), options={"verify_signature": False})
    )
    try:
        bundle = verify_bundle(_signed(authority, good | {field: value}), authority.certificates, "hospital-a", 0)
    except BundleRefused:
        return
    assert bundle.site == "hospital-a" and bundle.content.authorities


def test_the_same_content_has_the_same_digest_whatever_the_order_of_members(authority: Authority) -> None:
    one, other = (
        TrustContent(authorities_pem(authority), keys, ())
        for keys in ({"keys": [{"kid": "k", "kty": "OKP"}]}, {"keys": [{"kty": "OKP", "kid": "k"}]})
    )
    assert one.digest == other.digest
    assert one.digest != TrustContent(one.authorities, one.identity_keys, ("ab",)).digest


def test_identity_keys_follow_their_file_and_never_hold_a_private_part(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    with pytest.raises(CannotStart):
        IdentityKeys(file)
    file.write_text(json.dumps({"keys": [{"kty": "OKP", "kid": "one", "d": "secret"}]}))
    keys = IdentityKeys(file)
    assert keys.current() == {"keys": [{"kty": "OKP", "kid": "one"}]}
    file.write_text("damaged")
    assert keys.current() == {"keys": [{"kty": "OKP", "kid": "one"}]}
    file.write_text(json.dumps({"keys": [{"kty": "OKP", "kid": "one"}, {"kty": "OKP", "kid": "two"}]}))
    assert [key["kid"] for key in keys.current()["keys"]] == ["one", "two"]


def test_an_authority_with_a_key_of_another_kind_signs_no_bundle(authority: Authority) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    text = jwt.PyJWS(algorithms=["ES256"]).encode(b"{}", stranger, algorithm="ES256")
    with pytest.raises(BundleRefused):
        verify_bundle(text, authority.certificates, "hospital-a", 0)
