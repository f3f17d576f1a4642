"""The seam between what a network should be and what carries it.

A driver is told what is wanted and tells what it sees; it decides nothing. One behaviour suite runs on every driver.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from redoma_provisioner.network.condition import Condition


class DriverKind(Enum):
    """What carries a network."""

    EMBEDDED = "embedded"
    SKUPPER_KUBERNETES = "skupper-kubernetes"
    SKUPPER_SYSTEM = "skupper-system"
    FAKE = "fake"

    def links_with(self, other: "DriverKind") -> bool:
        """Whether a site of the one can be linked to one of the other: Skupper's are one network on all platforms."""
        return self is other or {self, other} <= {DriverKind.SKUPPER_KUBERNETES, DriverKind.SKUPPER_SYSTEM}


class DriverRefused(Exception):
    """What carries the network will not have it so; the message has its words and the mending step."""


class DriverUnavailable(Exception):
    """What carries the network can't be reached now, so that trying again helps; the message says what and how."""


@dataclass(frozen=True, slots=True)
class AdmittedSite:
    """A private site that may link to this public one.

    Attributes:
        id: Its id.
        certificates: SHA-256, lower-case hex, of the DER of each certificate that its gateway may show now.
    """

    id: str
    certificates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DesiredListener:
    """Where the public site wants to reach a service of a private one. The routing key is its name."""

    routing_key: str
    site: str


@dataclass(frozen=True, slots=True)
class DesiredConnector:
    """What a private site wants to expose. The routing key is its name.

    Attributes:
        routing_key: Ties it to the listener of the same key.
        target: Where the service listens: "unix:NAME" or "HOST:PORT"; "selector:KEY=VALUE,…:PORT" of Kubernetes' pods.
    """

    routing_key: str
    target: str


@dataclass(frozen=True, slots=True)
class DesiredLink:
    """The link that a private site wants to the public one.

    Attributes:
        id: Its name, unique in the site.
        address: host:port of the public site's end, for the embedded driver.
        resources: What `invite` gave there, for a Skupper driver; redeemed once.
    """

    id: str
    address: str = ""
    resources: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DesiredNetwork:
    """All that one site wants of its network. A public site has `admitted` and `listeners`, a private one the rest.

    Attributes:
        site: The id of the site itself.
        admitted: Which sites may link to it.
        listeners: What of them it wants to reach.
        links: The links it wants to make.
        connectors: What it wants to expose.
    """

    site: str
    admitted: tuple[AdmittedSite, ...] = ()
    listeners: tuple[DesiredListener, ...] = ()
    links: tuple[DesiredLink, ...] = ()
    connectors: tuple[DesiredConnector, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedLink:
    """What a driver sees of a link: conditions of the types "Configured" and "Operational", and its connections."""

    conditions: tuple[Condition, ...]
    tunnels: int = 0


@dataclass(frozen=True, slots=True)
class ObservedListener:
    """What a driver sees of a listener.

    Attributes:
        conditions: Of the types "Configured", "Matched" and "Reachable".
        address: host:port that the egress dials; empty where the driver needs no port.
    """

    conditions: tuple[Condition, ...]
    address: str = ""


@dataclass(frozen=True, slots=True)
class ObservedConnector:
    """What a driver sees of a connector: conditions of the types "Configured" and "Matched"."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class ObservedNetwork:
    """All that a driver sees.

    Attributes:
        links: By the id of the admitted site on the public side, by that of the link on the private one.
        listeners: By routing key.
        connectors: By routing key.
    """

    links: Mapping[str, ObservedLink] = field(default_factory=dict)
    listeners: Mapping[str, ObservedListener] = field(default_factory=dict)
    connectors: Mapping[str, ObservedConnector] = field(default_factory=dict)


class NetworkDriver(Protocol):
    """What carries the network of one site.

    Every method but `close` raises DriverRefused, or DriverUnavailable where trying again helps.
    """

    @property
    def kind(self) -> DriverKind:
        """Which one it is."""
        ...

    async def apply(self, desired: DesiredNetwork) -> None:
        """Makes what is wanted true, as far as it can by itself. Done again it changes nothing.

        What it made before and is wanted no longer it takes away; what others made it never touches. One resource that
        is refused does not hold up the others: they are made first, then DriverRefused is raised for all that was.
        """
        ...

    async def observe(self, desired: DesiredNetwork) -> ObservedNetwork:
        """Tells what is there of what is wanted; something for each link, listener and connector."""
        ...

    def changes(self) -> AsyncGenerator[None, None]:
        """Yields whenever there may be something new to observe; perhaps never, so the caller asks too."""
        ...

    async def invite(self, site: str, ttl_s: float) -> str:
        """Gives what lets one private site link to this public one, once; empty for a driver that needs nothing."""
        ...

    async def close(self) -> None:
        """Lets go of what it holds in this process; the network stays as it is."""
        ...
