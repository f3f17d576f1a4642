"""Carries the network by Skupper on Kubernetes: says what is wanted to the API server, and what Skupper says of it.

Skupper's controller does the work. This never writes what another made, and whatever it made has Redoma's owner, so
that it is collected when Redoma is uninstalled.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from redoma_provisioner.network.driver import (
    DesiredNetwork,
    DriverKind,
    DriverRefused,
    DriverUnavailable,
    ObservedListener,
    ObservedNetwork,
)
from redoma_provisioner.network.drivers.skupper.probe import Probe
from redoma_provisioner.network.drivers.skupper.resource import annotation
from redoma_provisioner.network.drivers.skupper_kubernetes.api import ApiServer, Manifest
from redoma_provisioner.network.drivers.skupper_kubernetes.calls import Calls
from redoma_provisioner.network.drivers.skupper_kubernetes.failure import ChangedMeanwhile
from redoma_provisioner.network.drivers.skupper_kubernetes.grants import (
    UNTIL,
    former_grants,
    grant_problem,
    invited_until,
    kept_grants,
    new_grant,
    token_of,
)
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import (
    ACCESS_GRANT,
    ACCESS_TOKEN,
    OF_PRIVATE,
    OF_PUBLIC,
    SITE,
    Kind,
)
from redoma_provisioner.network.drivers.skupper_kubernetes.known import Known
from redoma_provisioner.network.drivers.skupper_kubernetes.link import (
    TRIED,
    is_kept,
    is_settled,
    is_waiting,
    planned_link,
)
from redoma_provisioner.network.drivers.skupper_kubernetes.observation import Sight, has_endpoints
from redoma_provisioner.network.drivers.skupper_kubernetes.ownership import Owner
from redoma_provisioner.network.drivers.skupper_kubernetes.plan import (
    Plan,
    listener_address,
    planned_access,
    planned_connectors,
    planned_listeners,
    planned_site,
)
from redoma_provisioner.network.drivers.skupper_kubernetes.watching import Watching
from redoma_provisioner.network.drivers.skupper_kubernetes.writing import Writing
from redoma_provisioner.trust.names import PUBLIC_SITE

ATTEMPTS = 5
READY_S = 30.0
POLL_S = 0.25
# Skupper tries a token again by itself after five minutes; a change of the token has it try at once.
TRY_AGAIN_S = 5.0
# Skupper redeems a token in about a second.
REDEEM_S = 10.0
MOST_PROBES = 16


@dataclass(frozen=True, slots=True)
class Options:
    """What can be chosen.

    Attributes:
        port: Of every listener; each has a Service of its own.
        access_type: How links of private sites come in, such as "loadbalancer" or "route"; empty is Skupper's default.
        owner: "deployment/NAME" or "configmap/NAME" that all is collected with; empty is a ConfigMap made for it.
        ready_s: How long `invite` waits for Skupper, in seconds.
    """

    port: int = 10_000
    access_type: str = ""
    owner: str = ""
    ready_s: float = READY_S


class SkupperKubernetesDriver:
    """One site's driver."""

    kind = DriverKind.SKUPPER_KUBERNETES

    def __init__(
        self,
        connect: Callable[[], ApiServer],
        site: str,
        options: Options,
        probe: Probe,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connect` gives the API server and may block; `site`: whose driver it is, PUBLIC_SITE or a private one's."""
        self._calls = Calls(connect)
        self._site = site
        self._kinds = OF_PUBLIC if site == PUBLIC_SITE else OF_PRIVATE
        self._options = options
        self._probe = probe
        self._now = now
        self._monotonic = monotonic
        self._log = log
        self._writing = Writing(self._calls, site, options.owner, log)
        self._lock = asyncio.Lock()
        self._probes = asyncio.Semaphore(MOST_PROBES)
        self._tried: dict[str, tuple[int, float]] = {}

    async def apply(self, desired: DesiredNetwork) -> None:
        """See NetworkDriver."""
        async with self._lock:
            refusals = await self._again(lambda: self._apply(desired))
        if refusals:
            raise DriverRefused(" ".join(dict.fromkeys(refusals)))

    async def observe(self, desired: DesiredNetwork) -> ObservedNetwork:
        """See NetworkDriver."""
        known, namespace = await self._look(), await self._namespace()
        sight = Sight(known, namespace)

        async def listener(routing_key: str) -> ObservedListener:
            address = listener_address(routing_key, namespace, self._options.port)
            async with self._probes:
                reachable = await self._probe.opens(address.rpartition(":")[0], self._options.port)
            return sight.listener(routing_key, address, reachable)

        keys = [one.routing_key for one in desired.listeners]
        listeners = await asyncio.gather(*(listener(key) for key in keys))
        return ObservedNetwork(
            links={one.id: sight.admitted(one.id) for one in desired.admitted}
            | {one.id: sight.link(one.id) for one in desired.links},
            listeners=dict(zip(keys, listeners, strict=True)),
            connectors={one.routing_key: sight.connector(one.routing_key, one.target) for one in desired.connectors},
        )

    async def changes(self) -> AsyncGenerator[None, None]:
        """See NetworkDriver."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        watching = Watching(self._calls.api, self._kinds, tell, self._monotonic, self._log)
        watching.start()
        try:
            while True:
                await changed.wait()
                changed.clear()
                yield
        finally:
            watching.stop()

    async def invite(self, site: str, ttl_s: float) -> str:
        """See NetworkDriver. What a former invitation of the site gave is of no use any more, if nobody used it."""
        until = self._now().timestamp() + ttl_s
        grant = new_grant(site, ttl_s, until, secrets.token_hex(4))
        async with self._lock:
            await self._again(lambda: self._open_site(until))
        deadline = self._monotonic() + self._options.ready_s
        await self._until(deadline, self._site_problem)
        async with self._lock:
            known, owner = await self._look(), await self._writing.owner()
            await self._writing.make(grant, known, owner)
            # From here on the grant says that the Site is needed.
            for resource in self._opened(known, "").resources:
                await self._writing.make(resource, known, owner)
            for former in former_grants(known, site, grant.name):
                await self._writing.delete(ACCESS_GRANT, former)
        token = ""

        async def problem() -> str:
            nonlocal token
            found = (await self._look((ACCESS_GRANT,))).ours(ACCESS_GRANT).get(grant.name)
            token = token_of(found, site) if found else ""
            return "" if token else grant_problem(found)

        await self._until(deadline, problem)
        return token

    async def close(self) -> None:
        """See NetworkDriver."""
        self._calls.close()

    async def _apply(self, desired: DesiredNetwork) -> tuple[str, ...]:
        known = await self._look()
        plan = self._plan(desired, known)
        links = {link.id: link for link in desired.links}
        wanted = {(one.kind, one.name) for one in plan.resources}
        for kind in self._kinds:
            for name, manifest in known.ours(kind).items():
                if (kind.name, name) not in wanted and not is_kept(kind, manifest, links):
                    await self._writing.drop(kind, manifest, known)
        if not plan.resources and not links:
            await self._writing.drop_owner()
            return plan.refusals
        owner, refusals = await self._writing.owner(), list(plan.refusals)
        for resource in plan.resources:
            try:
                if resource.kind == ACCESS_TOKEN.name and resource.name not in known.all(ACCESS_TOKEN):
                    await self._site_is_taken_up()
                await self._writing.make(resource, known, owner)
            except DriverRefused as refusal:
                refusals.append(str(refusal))
        await self._adopt(plan, known, owner)
        return tuple(refusals)

    async def _site_is_taken_up(self) -> None:
        """Waits a while for the Site: Skupper passes over a token that comes before it, and looks again much later."""
        deadline = self._monotonic() + REDEEM_S
        while self._monotonic() < deadline:
            if (await self._look((SITE,))).active_site_name is not None:
                return
            await asyncio.sleep(POLL_S)

    async def _adopt(self, plan: Plan, known: Known, owner: Owner) -> None:
        """Marks what Skupper made of tokens; of a token that is new it is waited a while for."""
        tokens = {one.name for one in plan.resources if one.kind == ACCESS_TOKEN.name}
        deadline = self._monotonic() + REDEEM_S
        is_new = bool(tokens - known.ours(ACCESS_TOKEN).keys())
        while is_new and self._monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            known = await self._look()
            found = known.ours(ACCESS_TOKEN)
            is_new = not all(name in found and is_settled(found[name], known) for name in tokens)
        await self._writing.adopt(known, owner)

    def _plan(self, desired: DesiredNetwork, known: Known) -> Plan:
        if self._site == PUBLIC_SITE:
            return self._public_plan(desired, known, self._now().timestamp())
        plan = planned_connectors(desired.connectors)
        for link in desired.links:
            plan += planned_link(link, known, self._tries(known))
        if not desired.links and not desired.connectors:
            return plan
        return planned_site(known, edge=True) + plan

    def _public_plan(self, desired: DesiredNetwork, known: Known, now: float) -> Plan:
        admitted = {one.id for one in desired.admitted}
        grants, until = kept_grants(known, admitted, now), invited_until(known, now)
        if not (admitted or desired.listeners or grants or until):
            return Plan()
        listeners = planned_listeners(desired.listeners, known, self._options.port)
        return self._opened(known, until) + Plan(grants) + listeners

    def _opened(self, known: Known, until: str) -> Plan:
        """Gives the Site and where links come in, kept until all who are invited came or may come no more."""
        site = planned_site(known, edge=False)
        noted = tuple(replace(one, annotations={UNTIL: until}) if until else one for one in site.resources)
        return replace(site, resources=noted) + planned_access(known, self._options.access_type)

    async def _open_site(self, until: float) -> tuple[str, ...]:
        known, owner = await self._look(), await self._writing.owner()
        latest = max(float(invited_until(known, self._now().timestamp()) or 0.0), until)
        for resource in self._opened(known, str(int(latest))).resources:
            await self._writing.make(resource, known, owner)
        return ()

    async def _site_problem(self) -> str:
        known = await self._look((SITE,))
        sight = Sight(known, await self._namespace())
        if problem := sight.site_problem():
            return problem
        link = sight.admitted("")
        return "" if has_endpoints(known.active_site) else link.conditions[0].message.rstrip(".")

    async def _until(self, deadline: float, problem: Callable[[], Awaitable[str]]) -> None:
        """Waits until there is no problem.

        Raises:
            DriverUnavailable: There still is one; the message says which.
        """
        while why := await problem():
            if self._monotonic() >= deadline:
                raise DriverUnavailable(f"Skupper is not ready to let a site link: {why}.")
            await asyncio.sleep(POLL_S)

    def _tries(self, known: Known) -> Mapping[str, int]:
        """Counts up the tries of the tokens that Skupper has not redeemed yet, every now and then."""
        now, tokens = self._monotonic(), known.ours(ACCESS_TOKEN)
        for name, token in tokens.items():
            tries, since = self._tried.setdefault(name, (int(annotation(token, TRIED) or 0), now))
            if is_waiting(token) and now - since >= TRY_AGAIN_S:
                self._tried[name] = (tries + 1, now)
        self._tried = {name: one for name, one in self._tried.items() if name in tokens}
        return {name: tries for name, (tries, _) in self._tried.items()}

    async def _again(self, attempt: Callable[[], Awaitable[tuple[str, ...]]]) -> tuple[str, ...]:
        """Reads and writes again where another wrote in between."""
        for _ in range(ATTEMPTS):
            try:
                return await attempt()
            except ChangedMeanwhile as conflict:
                self._log.info("another wrote at the same time; reading again", problem=str(conflict)[:300])
        raise DriverUnavailable("Another keeps writing the same resources; it is tried again later.")

    async def _look(self, kinds: tuple[Kind, ...] | None = None) -> Known:
        async def items(kind: Kind) -> tuple[Manifest, ...]:
            return (await self._calls.run(lambda api: api.list(kind))).items

        wanted = kinds or self._kinds
        found = await asyncio.gather(*(items(kind) for kind in wanted))
        return Known(self._site, dict(zip(wanted, found, strict=True)))

    async def _namespace(self) -> str:
        return await self._calls.run(lambda api: api.namespace)
