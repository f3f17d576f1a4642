"""What is kept of a certificate that the authority signed."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """One certificate of a private site's service.

    Attributes:
        serial: Its serial number, lower-case hex.
        site: The id of the site.
        service: The service.
        fingerprint: SHA-256 of its DER, lower-case hex.
        issue_time: When it was signed.
        expire_time: When it expires.
        retire_time: When a newer one took its place; None: none has.
        revoke_time: When it was revoked; None: it was not.
    """

    serial: str
    site: str
    service: str
    fingerprint: str
    issue_time: datetime
    expire_time: datetime
    retire_time: datetime | None = None
    revoke_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate on its way to its site.

    Attributes:
        record: What is kept of it.
        chain: PEM, the certificate first, then what leads to the authority's, without that.
    """

    record: CertificateRecord
    chain: str
