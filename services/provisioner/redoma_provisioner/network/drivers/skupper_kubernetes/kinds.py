"""The kinds that the driver reads and writes, and where the API server has them."""

from dataclasses import dataclass

SKUPPER_GROUP = "skupper.io"
_SKUPPER = "/apis/skupper.io/v2alpha1"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of resource.

    Attributes:
        name: Such as "Listener".
        plural: As in paths and rules, such as "listeners".
        path: Of its group and version.
        group: Its API group; empty is the core's.
    """

    name: str
    plural: str
    path: str = _SKUPPER
    group: str = SKUPPER_GROUP


SITE = Kind("Site", "sites")
ROUTER_ACCESS = Kind("RouterAccess", "routeraccesses")
LISTENER = Kind("Listener", "listeners")
MULTI_KEY_LISTENER = Kind("MultiKeyListener", "multikeylisteners")
CONNECTOR = Kind("Connector", "connectors")
LINK = Kind("Link", "links")
ACCESS_GRANT = Kind("AccessGrant", "accessgrants")
ACCESS_TOKEN = Kind("AccessToken", "accesstokens")
SECRET = Kind("Secret", "secrets", "/api/v1", "")
CONFIG_MAP = Kind("ConfigMap", "configmaps", "/api/v1", "")
DEPLOYMENT = Kind("Deployment", "deployments", "/apis/apps/v1", "apps")

# MultiKeyListeners are read, so that no listener takes a name that one of them has, and never made: see ADR 0028.
OF_PUBLIC = (SITE, ROUTER_ACCESS, LISTENER, MULTI_KEY_LISTENER, ACCESS_GRANT)
OF_PRIVATE = (SITE, CONNECTOR, LINK, ACCESS_TOKEN)
BY_NAME = {
    kind.name: kind
    for kind in (
        *OF_PUBLIC,
        *OF_PRIVATE,
        SECRET,
        CONFIG_MAP,
        DEPLOYMENT,
    )
}
