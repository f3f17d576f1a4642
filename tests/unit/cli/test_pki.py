"""The development authority's certificates: what they say, who trusts them, and when they are made anew."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from redoma_cli.local.home import Home
from redoma_cli.local.pki import CA_LIFETIME, LEAF_LIFETIME, RENEW_BEFORE, DevelopmentAuthority
from tests.conftest import SITES


def certificate_of(authority: DevelopmentAuthority, service: str) -> x509.Certificate:
    """Reads a service's certificate."""
    return x509.load_pem_x509_certificate(authority.identity(service).certificate.read_bytes())


@pytest.mark.parametrize(("service", "site"), SITES.items())
def test_certificate_names_one_service_of_one_site(authority: DevelopmentAuthority, service: str, site: str) -> None:
    certificate = certificate_of(authority, service)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://redoma/{site}/{service}"]
    assert names.get_values_for_type(x509.DNSName) == [f"{service}.{site}.redoma"]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_certificate_is_signed_by_the_authority_and_can_sign_none(authority: DevelopmentAuthority) -> None:
    issuer = x509.load_pem_x509_certificate(authority.identity("chat").ca.read_bytes())
    certificate = certificate_of(authority, "chat")
    certificate.verify_directly_issued_by(issuer)
    assert certificate.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value == x509.BasicConstraints(
        ca=False, path_length=None
    )


def test_everything_secret_is_the_owners_alone(authority: DevelopmentAuthority, tmp_path: Path) -> None:
    files = [file for file in (tmp_path / "home").rglob("*") if file.is_file()]
    assert files
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    directories = {file.parent for file in files}
    assert {directory.stat().st_mode & 0o777 for directory in directories} == {0o700}


def test_second_run_changes_nothing(authority: DevelopmentAuthority, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    authority.ensure()
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_certificate_about_to_expire_is_renewed_and_the_signing_key_is_kept(
    authority: DevelopmentAuthority, tmp_path: Path
) -> None:
    before, key = certificate_of(authority, "model"), authority.signing_key.read_bytes()
    later = datetime.now(UTC) + LEAF_LIFETIME - RENEW_BEFORE + timedelta(hours=1)
    DevelopmentAuthority(tmp_path / "home" / "pki", now=lambda: later, services=SITES).ensure()
    after = certificate_of(authority, "model")
    assert after.serial_number != before.serial_number
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert after.issuer == before.issuer
    assert authority.signing_key.read_bytes() == key


def test_content_key_is_never_made_anew_whatever_is_in_it(authority: DevelopmentAuthority) -> None:
    assert len(base64.b64decode(authority.content_key.read_bytes())) == 32
    authority.content_key.write_bytes(b"one key\nanother key\n")
    authority.ensure()
    assert authority.content_key.read_bytes() == b"one key\nanother key\n"


def test_identity_signed_by_the_key_verifies_with_the_key_set(authority: DevelopmentAuthority) -> None:
    (entry,) = json.loads(authority.jwks.read_text())["keys"]
    token = jwt.encode({"sub": "x"}, authority.signing_key.read_bytes(), "EdDSA", headers={"kid": entry["kid"]})
    assert jwt.decode(token, jwt.PyJWK(entry), ["EdDSA"]) == {"sub": "x"}
    assert "d" not in entry


@pytest.mark.parametrize("name", ["ca.key", "ca.crt", "chat/tls.key", "chat/tls.crt", "chat/ca.crt", "signing.key"])
@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"]
)
def test_damaged_file_is_made_anew(
    authority: DevelopmentAuthority, tmp_path: Path, name: str, content: bytes | None
) -> None:
    file = tmp_path / "home" / "pki" / name
    file.unlink() if content is None else file.write_bytes(content)
    authority.ensure()
    for service in SITES:
        issuer = x509.load_pem_x509_certificate(authority.identity(service).ca.read_bytes())
        certificate_of(authority, service).verify_directly_issued_by(issuer)
        assert authority.expiry(service) > datetime.now(UTC)
    (entry,) = json.loads(authority.jwks.read_text())["keys"]
    token = jwt.encode({"sub": "x"}, authority.signing_key.read_bytes(), "EdDSA")
    assert jwt.decode(token, jwt.PyJWK(entry), ["EdDSA"]) == {"sub": "x"}


def test_key_of_another_is_seen_and_replaced(authority: DevelopmentAuthority) -> None:
    authority.identity("chat").key.write_bytes(authority.identity("model").key.read_bytes())
    with pytest.raises(ValueError, match="not the key of"):
        authority.expiry("chat")
    authority.ensure()
    assert authority.expiry("chat") > datetime.now(UTC)


def test_expired_authority_is_renewed_with_all_it_signed(authority: DevelopmentAuthority, tmp_path: Path) -> None:
    before = authority.identity("chat").ca.read_bytes()
    later = datetime.now(UTC) + CA_LIFETIME + timedelta(days=1)
    DevelopmentAuthority(tmp_path / "home" / "pki", now=lambda: later, services=SITES).ensure()
    assert authority.identity("chat").ca.read_bytes() != before
    assert all(authority.expiry(service) > later for service in SITES)


def test_what_was_made_for_a_private_site_does_not_lie_about(authority: DevelopmentAuthority, home: Home) -> None:
    assert authority.identity("model").key.exists()
    DevelopmentAuthority(home.pki).ensure()
    assert not authority.identity("model").directory.exists()
    assert authority.identity("chat").key.exists()
