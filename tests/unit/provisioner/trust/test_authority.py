"""What the authority signs, and what it refuses to."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from redoma_kit.errors import InvalidField
from redoma_provisioner.errors import CannotStart
from redoma_provisioner.trust.authority import Authority, load_authority
from redoma_provisioner.trust.certificate_check import names_of, site_of
from redoma_provisioner.trust.csr import CertificateRequest, check_services, checked_requests
from tests.fakes.trust_parties import LIFETIME, MovedClock, SiteKeys, key_pem, make_authority, request_for

P256 = ec.generate_private_key(ec.SECP256R1())
GOOD = request_for(P256, "spiffe://redoma/public/edge")


def _csr(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "it")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, algorithm)
    return request.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("key", [P256, ed25519.Ed25519PrivateKey.generate()], ids=["P-256", "Ed25519"])
def test_a_certificate_names_what_the_authority_says_and_not_what_was_asked(
    authority: Authority, clock: MovedClock, key: ec.EllipticCurvePrivateKey
) -> None:
    (checked,) = checked_requests("it", [CertificateRequest("model", _csr(key))])
    issued = authority.issue("hospital-a", checked)
    certificate = x509.load_pem_x509_certificate(issued.chain.encode())
    certificate.verify_directly_issued_by(authority.certificate)
    assert names_of(certificate) == (["spiffe://redoma/hospital-a/model"], ["model.hospital-a.redoma"])
    assert site_of(certificate) == "hospital-a"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    now = clock()
    assert certificate.not_valid_before_utc <= now - timedelta(minutes=5)
    assert abs(certificate.not_valid_after_utc - now - LIFETIME) < timedelta(seconds=30)
    assert issued.record.serial == f"{certificate.serial_number:x}"
    assert issued.record.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()


def test_names_in_a_request_are_ignored(authority: Authority) -> None:
    (checked,) = checked_requests("it", [CertificateRequest("model", GOOD)])
    certificate = x509.load_pem_x509_certificate(authority.issue("hospital-a", checked).chain.encode())
    assert b"public" not in certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65_537, 2_048), ec.generate_private_key(ec.SECP384R1())],
    ids=["RSA", "P-384"],
)
def test_keys_of_other_kinds_are_refused(key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(InvalidField, match="P-256 or Ed25519"):
        checked_requests("it", [CertificateRequest("model", _csr(key))])


def test_a_request_for_a_key_that_the_sender_has_not_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    mine, others = (
        key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for key in (P256.public_key(), other)
    )
    assert mine in GOOD
    with pytest.raises(InvalidField, match="not signed by the key"):
        checked_requests("it", [CertificateRequest("model", GOOD.replace(mine, others))])


def test_two_services_with_one_key_are_refused() -> None:
    with pytest.raises(InvalidField, match="a key of its own"):
        checked_requests("it", [CertificateRequest(name, GOOD) for name in ("model", "gateway")])


@pytest.mark.parametrize(
    "services", [(), ("gateway",), ("gateway", "provisioner", "edge"), ("gateway", "provisioner", "gateway")]
)
def test_a_site_asks_for_its_own_services_each_once(services: tuple[str, ...]) -> None:
    with pytest.raises(InvalidField):
        check_services("it", [CertificateRequest(service, GOOD) for service in services])


def test_a_request_that_is_too_large_is_refused_before_it_is_read() -> None:
    requests = [CertificateRequest(service, GOOD) for service in ("gateway", "provisioner")]
    check_services("it", requests)
    with pytest.raises(InvalidField, match="bytes"):
        check_services("it", [*requests, CertificateRequest("model", b"0" * 8_193)])


@settings(max_examples=150, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255))))
def test_no_bytes_whatever_do_more_than_be_refused(data: bytes | tuple[int, int]) -> None:
    if isinstance(data, tuple):
        place, change = data
        data = GOOD[:place] + bytes([GOOD[place] ^ change]) + GOOD[place + 1 :]
    with pytest.raises(InvalidField):
        checked_requests("it", [CertificateRequest("model", data)])


def test_a_certificate_never_outlives_the_authority(tmp_path: Path, clock: MovedClock) -> None:
    authority = make_authority(tmp_path / "it", clock, timedelta(days=9_000))
    (checked,) = checked_requests("it", SiteKeys().requests(["model"]))
    assert authority.issue("hospital-a", checked).record.expire_time == authority.certificate.not_valid_after_utc


def test_files_that_are_no_authority_are_named(tmp_path: Path, clock: MovedClock) -> None:
    make_authority(tmp_path, clock)
    certificate, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    other = tmp_path / "other.key"
    other.write_bytes(key_pem(P256))
    for file in (tmp_path / "missing", other, certificate):
        with pytest.raises(CannotStart, match=str(file)):
            load_authority(certificate, file, 3_600.0, clock)
    other.write_bytes(key_pem(ec.generate_private_key(ec.SECP384R1())))
    with pytest.raises(CannotStart, match="P-256"):
        load_authority(certificate, other, 3_600.0, clock)
    assert load_authority(certificate, key, 3_600.0, clock).digest


def test_the_next_authority_is_trusted_beside_the_one_that_signs(tmp_path: Path, clock: MovedClock) -> None:
    own, other = (make_authority(tmp_path / name, clock) for name in ("own", "other"))
    both = tmp_path / "both.crt"
    both.write_bytes((tmp_path / "other" / "ca.crt").read_bytes() + (tmp_path / "own" / "ca.crt").read_bytes())
    loaded = load_authority(both, tmp_path / "own" / "ca.key", 3_600.0, clock)
    assert loaded.certificates == (own.certificate, other.certificate)
