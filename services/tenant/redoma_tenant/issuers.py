"""Issuers of tokens: what may be one."""

from urllib.parse import urlsplit

from redoma_kit.errors import InvalidField

MAX_ISSUER = 255
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def check_issuer(field: str, issuer: str) -> None:
    """Raises InvalidField unless `issuer` is an HTTPS URL, or HTTP on loopback, without query, fragment and user."""
    if len(issuer) > MAX_ISSUER:
        raise InvalidField(field, f"has {len(issuer)} characters; the most is {MAX_ISSUER}.")
    if not _may_be_issuer(issuer):
        raise InvalidField(
            field, "must be an HTTPS URL such as https://login.example.com, exactly as its tokens have it."
        )


def _may_be_issuer(issuer: str) -> bool:
    try:
        parts = urlsplit(issuer)
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        has_more = "?" in issuer or "#" in issuer or parts.username is not None or parts.password is not None
        return (
            is_safe
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
            and not has_more
            and (issuer.isascii() and issuer.isprintable() and " " not in issuer)
        )
    except ValueError:
        return False
