"""NetworkService on the wire."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from redoma.provisioner.v1 import network_pb2, network_pb2_grpc
from redoma_kit.errors import InvalidField
from redoma_kit.identity import current_identity
from redoma_kit.interceptors.drain import Drain
from redoma_provisioner.network.reconciler import Reconciler
from redoma_provisioner.network.rotations import Rotations
from redoma_provisioner.network.sites import CHANGEABLE, SiteChange, Sites
from redoma_provisioner.servicers.link_grants import LinkGrantServicer
from redoma_provisioner.servicers.network_forms import (
    connector_message,
    link_message,
    listener_message,
    network_message,
    replicas_message,
    site_message,
)
from redoma_provisioner.servicers.operations import operation_message
from redoma_provisioner.servicers.watching import until_drained
from redoma_provisioner.trust.names import PUBLIC_SITE, parse_site_name, site_name

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

ANY_SITE = "sites/-"
EVERYTHING = "*"


class NetworkServicer(network_pb2_grpc.NetworkServiceServicer):
    """The network of sites, for operators; joining, for private sites; replicas, for other services."""

    def __init__(
        self, sites: Sites, reconciler: Reconciler, rotations: Rotations, grants: LinkGrantServicer, drain: Drain
    ) -> None:
        self._sites = sites
        self._reconciler = reconciler
        self._rotations = rotations
        self._drain = drain
        self._grants = grants

    async def GetSite(self, request: network_pb2.GetSiteRequest, context: "Context") -> network_pb2.GetSiteResponse:
        """Gets a site."""
        site = await self._sites.get(_site_id("name", request.name))
        (view,) = self._reconciler.site_views([site])
        return network_pb2.GetSiteResponse(site=site_message(view))

    async def ListSites(
        self, request: network_pb2.ListSitesRequest, context: "Context"
    ) -> network_pb2.ListSitesResponse:
        """Lists sites by id."""
        page = await self._sites.list(request.page_size, request.page_token)
        views = self._reconciler.site_views(page.sites)
        return network_pb2.ListSitesResponse(
            sites=[site_message(view) for view in views], next_page_token=page.next_page_token
        )

    async def UpdateSite(
        self, request: network_pb2.UpdateSiteRequest, context: "Context"
    ) -> network_pb2.UpdateSiteResponse:
        """Changes what people set of a site."""
        names = frozenset(request.update_mask.paths)
        if not names or names - CHANGEABLE - {EVERYTHING}:
            raise InvalidField("update_mask", f"must name some of {', '.join(sorted(CHANGEABLE))}, or be *.")
        site = await self._sites.update(
            _site_id("site.name", request.site.name),
            SiteChange(request.site.display_name, request.site.priority),
            CHANGEABLE if EVERYTHING in names else names,
            request.site.etag,
        )
        (view,) = self._reconciler.site_views([site])
        return network_pb2.UpdateSiteResponse(site=site_message(view))

    async def RevokeSite(
        self, request: network_pb2.RevokeSiteRequest, context: "Context"
    ) -> network_pb2.RevokeSiteResponse:
        """Revokes a site for good."""
        site = await self._sites.revoke(_site_id("name", request.name))
        (view,) = self._reconciler.site_views([site])
        return network_pb2.RevokeSiteResponse(site=site_message(view))

    async def DeleteSite(
        self, request: network_pb2.DeleteSiteRequest, context: "Context"
    ) -> network_pb2.DeleteSiteResponse:
        """Forgets a site."""
        await self._sites.delete(_site_id("name", request.name))
        return network_pb2.DeleteSiteResponse()

    async def RotateCertificates(
        self, request: network_pb2.RotateCertificatesRequest, context: "Context"
    ) -> network_pb2.RotateCertificatesResponse:
        """Begins to give a site new certificates."""
        site = parse_site_name("name", request.name)
        operation = await self._rotations.begin(await self._sites.get(site), current_identity().principal)
        return network_pb2.RotateCertificatesResponse(operation=operation_message(operation))

    async def ListLinks(
        self, request: network_pb2.ListLinksRequest, context: "Context"
    ) -> network_pb2.ListLinksResponse:
        """Lists links."""
        site = await self._parent(request.parent)
        links = self._reconciler.views.value.links.values()
        return network_pb2.ListLinksResponse(links=[link_message(link) for link in links if site in ("", link.site)])

    async def ListListeners(
        self, request: network_pb2.ListListenersRequest, context: "Context"
    ) -> network_pb2.ListListenersResponse:
        """Lists the public site's listeners."""
        listeners = self._reconciler.views.value.listeners.values()
        return network_pb2.ListListenersResponse(listeners=[listener_message(listener) for listener in listeners])

    async def ListConnectors(
        self, request: network_pb2.ListConnectorsRequest, context: "Context"
    ) -> network_pb2.ListConnectorsResponse:
        """Lists what sites expose."""
        site = await self._parent(request.parent)
        connectors = self._reconciler.views.value.connectors.values()
        return network_pb2.ListConnectorsResponse(
            connectors=[connector_message(one) for one in connectors if site in ("", one.connector.site)]
        )

    async def WatchNetwork(
        self, request: network_pb2.WatchNetworkRequest, context: "Context"
    ) -> AsyncGenerator[network_pb2.WatchNetworkResponse, None]:
        """Sends the network as it is, then at each change."""
        async with aclosing(until_drained(self._reconciler.views.follow(), self._drain)) as views:
            async for view in views:
                yield network_message(view)

    async def WatchReplicas(
        self, request: network_pb2.WatchReplicasRequest, context: "Context"
    ) -> AsyncGenerator[network_pb2.WatchReplicasResponse, None]:
        """Sends the replicas of models as they are, then at each change."""
        async with aclosing(until_drained(self._reconciler.replicas.follow(), self._drain)) as changes:
            async for replicas in changes:
                yield replicas_message(replicas)

    async def CreateLinkGrant(
        self, request: network_pb2.CreateLinkGrantRequest, context: "Context"
    ) -> network_pb2.CreateLinkGrantResponse:
        """Makes a grant."""
        return await self._grants.CreateLinkGrant(request, context)

    async def ListLinkGrants(
        self, request: network_pb2.ListLinkGrantsRequest, context: "Context"
    ) -> network_pb2.ListLinkGrantsResponse:
        """Lists grants."""
        return await self._grants.ListLinkGrants(request, context)

    async def RevokeLinkGrant(
        self, request: network_pb2.RevokeLinkGrantRequest, context: "Context"
    ) -> network_pb2.RevokeLinkGrantResponse:
        """Revokes a grant."""
        return await self._grants.RevokeLinkGrant(request, context)

    async def RedeemLinkGrant(
        self, request: network_pb2.RedeemLinkGrantRequest, context: "Context"
    ) -> network_pb2.RedeemLinkGrantResponse:
        """Lets a site join."""
        return await self._grants.RedeemLinkGrant(request, context)

    async def _parent(self, parent: str) -> str:
        """Gives the id of the site that a list is of, empty for all.

        Raises:
            ResourceNotFound: There is none of that id.
        """
        if parent == ANY_SITE:
            return ""
        site = _site_id("parent", parent)
        if site not in self._reconciler.views.value.sites:
            await self._sites.get(site)
        return site


def _site_id(field: str, name: str) -> str:
    return PUBLIC_SITE if name == site_name(PUBLIC_SITE) else parse_site_name(field, name)
