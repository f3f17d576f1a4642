"""What the Envoys are made from: the facts of the network, without Envoy's words for them."""

from dataclasses import dataclass

from redoma_provisioner.network.driver import AdmittedSite


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One service of a private site as the egress reaches it.

    Attributes:
        routing_key: Its name in the network.
        site: The id of its site.
        service: Whose certificate it shows: "model", "provisioner", or "gateway" through the site's tunnels.
        tenant: The id of the tenant that alone is served by it; empty is all.
        priority: Lower ones are used first.
        address: host:port of its listener; empty is through the site's tunnels.
    """

    routing_key: str
    site: str
    service: str
    tenant: str = ""
    priority: int = 0
    address: str = ""


@dataclass(frozen=True, slots=True)
class EgressState:
    """What the egress leads to.

    Attributes:
        replicas: The replicas of models.
        provisioners: The provisioners of private sites.
        tunnels: The sites that may open tunnels.
    """

    replicas: tuple[Endpoint, ...] = ()
    provisioners: tuple[Endpoint, ...] = ()
    tunnels: tuple[AdmittedSite, ...] = ()


@dataclass(frozen=True, slots=True)
class Exposed:
    """A service that the gateway of a private site leads to.

    Attributes:
        routing_key: Its name in the network.
        service: Whose certificate it shows: "model" or "provisioner".
        target: "unix:NAME" relative to the gateway's working directory, or host:port.
    """

    routing_key: str
    service: str
    target: str


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What the gateway of a private site does.

    Attributes:
        site: Its site's id.
        public_address: host:port of the public site's tunnel listener; empty is none, so that it dials nowhere.
        exposed: What it leads to.
        tunnels: How many connections it leaves there; twice the egress's workers at least, as each has its own.
    """

    site: str
    public_address: str
    exposed: tuple[Exposed, ...] = ()
    tunnels: int = 4
