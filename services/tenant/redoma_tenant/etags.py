"""Etags: which version of a resource a caller means to change."""

from redoma_tenant.errors import EtagMismatch


def etag_of(version: int) -> str:
    """Gives the etag of a version."""
    return str(version)


def check_etag(resource: str, etag: str, version: int) -> None:
    """Raises EtagMismatch unless `etag` is empty or that of `version`."""
    if etag and etag != etag_of(version):
        raise EtagMismatch(resource, etag_of(version))
