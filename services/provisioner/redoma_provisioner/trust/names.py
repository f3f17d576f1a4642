"""Ids of sites, services and connectors, and what certificates call them."""

import re

from redoma_kit import policy
from redoma_kit.errors import InvalidField

PUBLIC_SITE = "public"
SITE_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
CONNECTOR_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
GATEWAY, MODEL, PROVISIONER = "gateway", "model", "provisioner"
# The services of a private site that get a certificate, in the order in which they are shown.
SERVICES = (GATEWAY, MODEL, PROVISIONER, "supervisor")
# Without these there is no link and no way to renew.
NEEDED_SERVICES = frozenset({GATEWAY, PROVISIONER})
# Those that it may expose to the network.
EXPOSABLE_SERVICES = (MODEL, PROVISIONER)


def site_name(site: str) -> str:
    """Gives the resource name of a site."""
    return f"sites/{site}"


def check_site_id(field: str, site: str) -> None:
    """Raises InvalidField unless `site` may be the id of a private site."""
    if not SITE_ID.fullmatch(site):
        raise InvalidField(
            field, "must be 1 to 40 of a-z, 0-9 and '-', begin with a letter and not end with '-', such as hospital-a."
        )
    if site == PUBLIC_SITE:
        raise InvalidField(field, f"must not be {PUBLIC_SITE}, which is this site itself.")


def parse_site_name(field: str, name: str) -> str:
    """Gives the id in `sites/{site}` of a private site.

    Raises:
        InvalidField: `name` is of another form.
    """
    collection, _, site = name.partition("/")
    if collection != "sites":
        raise InvalidField(field, "must have the form sites/{site}.")
    check_site_id(field, site)
    return site


def uri_name(site: str, service: str) -> str:
    """Gives the URI name in the certificate of a service."""
    return policy.spiffe_id(site, service)


def dns_name(site: str, service: str) -> str:
    """Gives the DNS name in the certificate of a service."""
    return f"{service}.{site}.redoma"
