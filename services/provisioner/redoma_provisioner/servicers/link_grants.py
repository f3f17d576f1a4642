"""The part of NetworkService that lets sites join, on the wire."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from redoma.provisioner.v1 import link_grant_pb2, network_pb2
from redoma_kit.errors import InvalidField
from redoma_kit.identity import current_identity
from redoma_provisioner.servicers.connectors import connectors_in
from redoma_provisioner.servicers.drivers import DRIVERS, driver_in
from redoma_provisioner.servicers.times import duration, duration_in, timestamp
from redoma_provisioner.trust.csr import CertificateRequest
from redoma_provisioner.trust.grant import GrantState, LinkGrant
from redoma_provisioner.trust.grants import Grants, GrantSettings
from redoma_provisioner.trust.names import parse_site_name, site_name
from redoma_provisioner.trust.redemption import JoinRequest, Redeemer
from redoma_provisioner.trust.wrong_codes import source_of

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

FORWARDED_FOR = "x-forwarded-for"
GRANT_ID = re.compile(r"[0-9a-f]{32}")
STATES = {
    GrantState.ACTIVE: link_grant_pb2.LinkGrant.STATE_ACTIVE,
    GrantState.REDEEMED: link_grant_pb2.LinkGrant.STATE_REDEEMED,
    GrantState.EXPIRED: link_grant_pb2.LinkGrant.STATE_EXPIRED,
    GrantState.REVOKED: link_grant_pb2.LinkGrant.STATE_REVOKED,
}


class LinkGrantServicer:
    """Grants: operators make, list and revoke them, and sites redeem them."""

    def __init__(self, grants: Grants, redeemer: Redeemer, now: Callable[[], datetime]) -> None:
        self._grants = grants
        self._redeemer = redeemer
        self._now = now

    async def CreateLinkGrant(
        self, request: network_pb2.CreateLinkGrantRequest, context: "Context"
    ) -> network_pb2.CreateLinkGrantResponse:
        """Makes a grant."""
        wanted = request.link_grant
        settings = GrantSettings(
            site=parse_site_name("link_grant.site", wanted.site),
            driver=driver_in("link_grant.driver", wanted.driver),
            ttl=duration_in("link_grant.ttl", wanted.ttl) if wanted.HasField("ttl") else None,
            rejoin=request.rejoin,
        )
        grant, token = await self._grants.create(settings, current_identity().principal)
        return network_pb2.CreateLinkGrantResponse(link_grant=self._message(grant), token=token)

    async def ListLinkGrants(
        self, request: network_pb2.ListLinkGrantsRequest, context: "Context"
    ) -> network_pb2.ListLinkGrantsResponse:
        """Lists grants, the newest first."""
        page = await self._grants.list(request.page_size, request.page_token)
        return network_pb2.ListLinkGrantsResponse(
            link_grants=[self._message(grant) for grant in page.grants], next_page_token=page.next_page_token
        )

    async def RevokeLinkGrant(
        self, request: network_pb2.RevokeLinkGrantRequest, context: "Context"
    ) -> network_pb2.RevokeLinkGrantResponse:
        """Revokes a grant."""
        collection, _, grant_id = request.name.partition("/")
        if collection != "linkGrants" or not GRANT_ID.fullmatch(grant_id):
            raise InvalidField("name", "must have the form linkGrants/{grant}.")
        return network_pb2.RevokeLinkGrantResponse(link_grant=self._message(await self._grants.revoke(grant_id)))

    async def RedeemLinkGrant(
        self, request: network_pb2.RedeemLinkGrantRequest, context: "Context"
    ) -> network_pb2.RedeemLinkGrantResponse:
        """Lets a site join."""
        requests = tuple(CertificateRequest(one.service, one.csr) for one in request.certificate_requests)
        wanted = JoinRequest(request.code, requests, connectors_in(request.connectors))
        admission = await self._redeemer.redeem(wanted, _source(context))
        return network_pb2.RedeemLinkGrantResponse(
            site=site_name(admission.site),
            driver=DRIVERS[admission.driver],
            certificates=[
                network_pb2.IssuedCertificate(service=one.service, certificate_chain=one.chain)
                for one in admission.certificates
            ],
            trust_bundle=admission.trust_bundle,
            link_address=admission.link_address,
            skupper_resources=admission.skupper_resources,
        )

    def _message(self, grant: LinkGrant) -> link_grant_pb2.LinkGrant:
        return link_grant_pb2.LinkGrant(
            name=grant.name,
            site=site_name(grant.site),
            driver=DRIVERS[grant.driver],
            ttl=duration(grant.expire_time - grant.create_time),
            state=STATES[grant.state(self._now())],
            create_time=timestamp(grant.create_time),
            expire_time=timestamp(grant.expire_time),
            redeem_time=timestamp(grant.redeem_time),
            creator=grant.creator,
        )


def _source(context: "Context") -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == FORWARDED_FOR]
    last = values[-1] if values else ""
    return source_of(last if isinstance(last, str) else last.decode("ascii", "replace"))
