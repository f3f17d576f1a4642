"""Certificates that a site is given, spoiled in every way that a test can think of."""

import base64
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.certificate_check import CertificateRefused, check_certificates, read_chain, site_of
from redoma_provisioner.trust.csr import checked_requests, key_bytes
from tests.fakes.trust_parties import MovedClock, SiteKeys, make_authority


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, bytes, bytes]:
    """An authority, a certificate of it, DER, and the public key in that."""
    authority = make_authority(tmp_path_factory.mktemp("authority"), MovedClock())
    (request,) = checked_requests("it", SiteKeys().requests(["model"]))
    chain = authority.issue("hospital-a", request).chain
    der = x509.load_pem_x509_certificate(chain.encode()).public_bytes(serialization.Encoding.DER)
    return authority, der, key_bytes(request.key)


def _pem(der: bytes) -> str:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def _check(good: tuple[Authority, bytes, bytes], text: str, now: datetime | None = None) -> None:
    authority, _, key = good
    time = now or datetime.now(UTC)
    check_certificates({"model": text}, {"model": key}, authority.certificates, "hospital-a", time)


def test_the_certificate_itself_is_taken(good: tuple[Authority, bytes, bytes]) -> None:
    _check(good, _pem(good[1]))


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_one_byte_changed_is_refused_and_nothing_else_happens(
    good: tuple[Authority, bytes, bytes], place: float, change: int
) -> None:
    der = good[1]
    at = int(place * len(der))
    with pytest.raises(CertificateRefused):
        _check(good, _pem(der[:at] + bytes([der[at] ^ change]) + der[at + 1 :]))


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=200))
def test_other_text_is_refused(good: tuple[Authority, bytes, bytes], text: str) -> None:
    with pytest.raises(CertificateRefused):
        _check(good, text)


def test_a_chain_that_is_too_long_or_leads_elsewhere_is_refused(
    good: tuple[Authority, bytes, bytes], tmp_path: Path
) -> None:
    pem = _pem(good[1])
    with pytest.raises(CertificateRefused):
        read_chain(pem * 5)
    with pytest.raises(CertificateRefused):
        _check(good, pem + pem)
    other = make_authority(tmp_path, MovedClock())
    with pytest.raises(CertificateRefused):
        _check(good, pem + other.certificate.public_bytes(serialization.Encoding.PEM).decode())
    # The authority itself at the end does no harm.
    _check(good, pem + good[0].certificate.public_bytes(serialization.Encoding.PEM).decode())


def test_an_expired_one_is_refused(good: tuple[Authority, bytes, bytes]) -> None:
    with pytest.raises(CertificateRefused, match="expired"):
        _check(good, _pem(good[1]), datetime.now(UTC) + timedelta(days=31))


def test_a_certificate_without_names_is_of_no_site(good: tuple[Authority, bytes, bytes]) -> None:
    assert site_of(good[0].certificate) == ""
