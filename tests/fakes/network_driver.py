"""A network in memory, with both its ends in one process and faults to inject."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.driver import (
    AdmittedSite,
    DesiredConnector,
    DesiredLink,
    DesiredListener,
    DesiredNetwork,
    DriverKind,
    DriverRefused,
    DriverUnavailable,
    ObservedConnector,
    ObservedLink,
    ObservedListener,
    ObservedNetwork,
)

PUBLIC = "public"
TUNNELS = 4
Wanted = AdmittedSite | DesiredListener | DesiredLink | DesiredConnector


@dataclass(frozen=True, slots=True)
class Made:
    """A resource that is there: who made it, of what, and a number that no other write had."""

    owner: str
    value: object
    version: int


@dataclass(slots=True)
class FakeNetwork:
    """What carries the network: the resources at each end by site and name, and what is wrong with it now.

    Attributes:
        ends: By site, then by name such as "listener/hospital-a.model-0".
        cut: Sites whose links are cut.
        refusals: What is refused, by name as in `ends`, "*" for all, with the words.
        away: Whether drivers can't reach it.
        lag: Of listeners whose "Matched" lags behind, what it still says.
        writes: How many times anything was written.
    """

    ends: dict[str, dict[str, Made]] = field(default_factory=lambda: {PUBLIC: {}})
    cut: set[str] = field(default_factory=set)
    refusals: dict[str, str] = field(default_factory=dict)
    away: bool = False
    lag: dict[str, bool] = field(default_factory=dict)
    writes: int = 0
    _invitations: set[str] = field(default_factory=set)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _watchers: list[asyncio.Event] = field(default_factory=list)

    def end(self, site: str) -> dict[str, Made]:
        """Gives the resources at one end."""
        return self.ends.setdefault(site, {})

    def changed(self) -> None:
        """Tells those who watch."""
        for watcher in self._watchers:
            watcher.set()

    def vanish(self, site: str, name: str = "") -> None:
        """Takes a resource away by another's hand; all of the site if none is named."""
        if name:
            self.end(site).pop(name)
        else:
            self.end(site).clear()
        self.changed()

    def let_lag(self, routing_key: str, site: str) -> None:
        """Has a listener's "Matched" say what it says now until `catch_up`."""
        self.lag[routing_key] = self.is_matched(site, routing_key)

    def catch_up(self) -> None:
        """Ends every lag."""
        self.lag.clear()
        self.changed()

    def check(self) -> None:
        """Raises DriverUnavailable while it is away."""
        if self.away:
            raise DriverUnavailable("The fake network is away; bring it back.")

    def is_operational(self, site: str) -> bool:
        """Tells whether a site's link carries calls."""
        there = self.end(site)
        is_wanted = f"admitted/{site}" in self.end(PUBLIC) and any(name.startswith("link/") for name in there)
        return is_wanted and site not in self.cut

    def is_matched(self, site: str, routing_key: str) -> bool:
        """Tells whether a listener's connector is there, over a link that carries calls."""
        return self.is_operational(site) and f"connector/{routing_key}" in self.end(site)

    def invitation(self, site: str) -> str:
        """Makes what lets a site link, once."""
        invitation = f"{site}#{next(self._numbers)}"
        self._invitations.add(invitation)
        return invitation

    def write(self, site: str, name: str, owner: str, value: Wanted) -> None:
        """Makes or changes a resource.

        Raises:
            DriverRefused: It was to be refused, or a link's invitation is not good.
        """
        if words := self.refusals.get(name) or self.refusals.get("*"):
            raise DriverRefused(f"The fake network refused {name}: {words}.")
        if isinstance(value, DesiredLink) and value.resources:
            if value.resources not in self._invitations:
                raise DriverRefused("The invitation was used or is unknown; ask for another.")
            self._invitations.remove(value.resources)
        self.writes += 1
        self.end(site)[name] = Made(owner, value, next(self._numbers))

    def watch(self) -> asyncio.Event:
        """Gives an event that is set at each change."""
        event = asyncio.Event()
        self._watchers.append(event)
        return event

    async def until(self, check: Callable[[], bool], bound_s: float = 20.0) -> None:
        """Waits until something holds."""
        changed = self.watch()
        try:
            async with asyncio.timeout(bound_s):
                while not check():
                    changed.clear()
                    await changed.wait()
        finally:
            self.unwatch(changed)

    def unwatch(self, event: asyncio.Event) -> None:
        """Forgets such an event."""
        self._watchers.remove(event)


class FakeDriver:
    """One site's driver of a FakeNetwork."""

    kind = DriverKind.FAKE

    def __init__(self, network: FakeNetwork, site: str) -> None:
        self._network = network
        self._site = site
        self.closed = False

    async def apply(self, desired: DesiredNetwork) -> None:
        """See NetworkDriver."""
        self._network.check()
        assert desired.site == self._site, "a driver is one site's"
        wanted, there = _wanted(desired), self._network.end(self._site)
        refusals = []
        gone = [name for name, made in there.items() if made.owner == self._owner and name not in wanted]
        for name in gone:
            del there[name]
        writes = self._network.writes
        for name, value in wanted.items():
            if (made := there.get(name)) is not None and (made.value == value or made.owner != self._owner):
                continue
            try:
                self._network.write(self._site, name, self._owner, value)
            except DriverRefused as refusal:
                refusals.append(str(refusal))
        if gone or self._network.writes != writes:
            self._network.changed()
        if refusals:
            raise DriverRefused(" ".join(refusals))

    async def observe(self, desired: DesiredNetwork) -> ObservedNetwork:
        """See NetworkDriver."""
        self._network.check()
        here = self._network.end(self._site)
        links = {site.id: self._link(f"admitted/{site.id}" in here, site.id) for site in desired.admitted}
        links |= {link.id: self._link(f"link/{link.id}" in here, self._site) for link in desired.links}
        return ObservedNetwork(
            links=links,
            listeners={one.routing_key: self._listener(one) for one in desired.listeners},
            connectors={one.routing_key: self._connector(one) for one in desired.connectors},
        )

    async def changes(self) -> AsyncGenerator[None, None]:
        """See NetworkDriver."""
        event = self._network.watch()
        try:
            while True:
                await event.wait()
                event.clear()
                yield
        finally:
            self._network.unwatch(event)

    async def invite(self, site: str, ttl_s: float) -> str:
        """See NetworkDriver."""
        self._network.check()
        return self._network.invitation(site)

    async def close(self) -> None:
        """See NetworkDriver."""
        self.closed = True

    @property
    def _owner(self) -> str:
        return f"redoma/{self._site}"

    def _link(self, is_there: bool, site: str) -> ObservedLink:
        operational = self._network.is_operational(site)
        return ObservedLink(
            (
                _condition("Configured", is_there, "Applied", "NotApplied", "It was not applied yet."),
                _condition("Operational", operational, "Tunnels", "NoTunnels", f"The site {site} has no connection."),
            ),
            TUNNELS if operational else 0,
        )

    def _listener(self, listener: DesiredListener) -> ObservedListener:
        key, site = listener.routing_key, listener.site
        is_there = f"listener/{key}" in self._network.end(self._site)
        matched = self._network.is_matched(site, key)
        told = is_there and self._network.lag.get(key, matched)
        return ObservedListener(
            (
                _condition("Configured", is_there, "Applied", "NotApplied", "It was not applied yet."),
                _condition("Matched", told, "Connector", "NoConnector", f"Nothing is exposed as {key}."),
                _condition("Reachable", is_there and matched, "Answers", "NoAnswer", f"Nothing answers as {key}."),
            )
        )

    def _connector(self, connector: DesiredConnector) -> ObservedConnector:
        key = connector.routing_key
        is_there = f"connector/{key}" in self._network.end(self._site)
        matched = f"listener/{key}" in self._network.end(PUBLIC) and self._network.is_operational(self._site)
        return ObservedConnector(
            (
                _condition("Configured", is_there, "Applied", "NotApplied", "It was not applied yet."),
                _condition("Matched", is_there and matched, "Listener", "NoListener", f"Nobody listens for {key}."),
            )
        )


def _wanted(desired: DesiredNetwork) -> Mapping[str, Wanted]:
    return {
        **{f"admitted/{site.id}": site for site in desired.admitted},
        **{f"listener/{listener.routing_key}": listener for listener in desired.listeners},
        **{f"link/{link.id}": link for link in desired.links},
        **{f"connector/{connector.routing_key}": connector for connector in desired.connectors},
    }


def _condition(type_: str, holds: bool, good: str, bad: str, message: str) -> Condition:
    return Condition(type_, holds, good if holds else bad, "" if holds else message)
