"""Who may call what of the provisioner, by its role."""

from redoma_kit.identity import PLATFORM_ADMIN
from redoma_kit.policy import CHAT, EDGE, EGRESS, PROVISIONER, TENANT, Policy, Rule, spiffe_id

PLATFORM = frozenset({PLATFORM_ADMIN})
CALL_MAX_S = 30.0
# What carries the network may have to start or restart a router for whoever joins.
JOIN_MAX_S = 280.0
# These last as long as their caller; once a day they begin anew.
LASTING_S = 86_400.0

_NETWORK = "/redoma.provisioner.v1.NetworkService"
_MEMBERSHIP = "/redoma.provisioner.v1.MembershipService"
_DISCOVERY = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
DISCOVERY_METHODS = (f"{_DISCOVERY}/StreamAggregatedResources", f"{_DISCOVERY}/DeltaAggregatedResources")

PUBLIC_POLICY: Policy = {
    **{
        f"{_NETWORK}/{name}": Rule(peers=EDGE, any_scope=PLATFORM, max_s=CALL_MAX_S)
        for name in (
            "GetSite",
            "ListSites",
            "UpdateSite",
            "RevokeSite",
            "DeleteSite",
            "RotateCertificates",
            "ListLinks",
            "ListListeners",
            "ListConnectors",
            "CreateLinkGrant",
            "ListLinkGrants",
            "RevokeLinkGrant",
        )
    },
    f"{_NETWORK}/WatchNetwork": Rule(peers=EDGE, any_scope=PLATFORM),
    # The code in the request is the credential.
    f"{_NETWORK}/RedeemLinkGrant": Rule(peers=EGRESS, identity=False, max_s=JOIN_MAX_S),
    f"{_NETWORK}/WatchReplicas": Rule(peers=CHAT | TENANT, identity=False, max_s=LASTING_S),
    **{
        f"/redoma.provisioner.v1.{name}": Rule(peers=EDGE, any_scope=PLATFORM, max_s=CALL_MAX_S)
        for name in (
            "OperationService/GetOperation",
            "OperationService/ListOperations",
            "OperationService/CancelOperation",
            "EdgeService/ListProxies",
            "EdgeService/GetSnapshot",
            "EdgeService/ListSnapshots",
        )
    },
    "/redoma.provisioner.v1.OperationService/WatchOperation": Rule(peers=EDGE, any_scope=PLATFORM),
    **{method: Rule(peers=EDGE | EGRESS, identity=False, max_s=LASTING_S) for method in DISCOVERY_METHODS},
}


def private_policy(site: str) -> Policy:
    """Gives the policy of a private site's provisioner."""
    gateway = frozenset({spiffe_id(site, "gateway")})
    return {
        f"{_MEMBERSHIP}/WatchMembership": Rule(peers=PROVISIONER, identity=False, max_s=LASTING_S),
        f"{_MEMBERSHIP}/CreateCertificateRequests": Rule(peers=PROVISIONER, identity=False, max_s=CALL_MAX_S),
        f"{_MEMBERSHIP}/ApplyTrust": Rule(peers=PROVISIONER, identity=False, max_s=CALL_MAX_S),
        **{method: Rule(peers=gateway, identity=False, max_s=LASTING_S) for method in DISCOVERY_METHODS},
    }
