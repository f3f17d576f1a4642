"""What must hold of every driver of the network: the fake, the embedded one and those of Skupper.

A driver's test makes a lab, which is a network with its two ends and a hand on what carries it, and runs the cases:

    @pytest.mark.parametrize("case", cases(*ABILITIES), ids=lambda case: case.__name__)
    async def test_driver(case: Case, lab: DriverLab) -> None:
        await case(lab)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Protocol

import pytest

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.driver import (
    AdmittedSite,
    DesiredConnector,
    DesiredLink,
    DesiredListener,
    DesiredNetwork,
    DriverRefused,
    DriverUnavailable,
    NetworkDriver,
    ObservedNetwork,
)

POLL_S = 0.05
JOINS = 10
PUBLIC = "public"


class Ability(Enum):
    """What a lab can do besides making drivers."""

    CUT = auto()
    """`cut` and `restore` break the link of a site."""
    RESTART = auto()
    """`restart` restarts what carries the network."""
    FOREIGN = auto()
    """`put_foreign` makes resources by another's hand."""
    REFUSE = auto()
    """`refuse` makes what carries the network refuse what is wanted."""
    REFUSE_ONE = auto()
    """What carries the network can refuse one resource and take the others."""
    TAKE_AWAY = auto()
    """`take_away` and `bring_back` make it unreachable for the drivers."""
    CALL = auto()
    """`reaches` makes a real call through the network."""
    MATCH = auto()
    """A listener knows whether it has a connector."""


class DriverLab(Protocol):
    """One public site and any number of private ones, and what carries the network between them.

    Methods behind an ability that the lab lacks are never called; they may raise NotImplementedError.
    """

    @property
    def settle_s(self) -> float:
        """The longest that a change takes to be observed, in seconds."""
        ...

    async def public(self) -> NetworkDriver:
        """Makes another driver of the public site, as a restarted provisioner would; the lab closes it at the end."""
        ...

    async def private(self, site: str) -> NetworkDriver:
        """Makes another driver of a private site."""
        ...

    async def admitted(self, site: str) -> AdmittedSite:
        """Gives a site as the public one admits it, with whatever makes it trusted."""
        ...

    async def link(self, site: str, resources: str) -> DesiredLink:
        """Gives the link that a private site wants, from what `invite` gave for it."""
        ...

    async def target(self, site: str, routing_key: str) -> str:
        """Gives where a service of a private site listens, after starting it if there is none."""
        ...

    async def inventory(self) -> Mapping[str, str]:
        """Lists all that drivers made at either end and is still there, by name, with a version that changes when it
        does. What others made, and what is there before any driver, is not in it."""
        ...

    async def reaches(self, routing_key: str) -> bool:
        """Tells whether a call from the public site gets through now (CALL)."""
        ...

    async def cut(self, site: str) -> None:
        """Cuts a site's link (CUT)."""
        ...

    async def restore(self, site: str) -> None:
        """Makes the network whole again (CUT)."""
        ...

    async def restart(self) -> None:
        """Restarts what carries the network at both ends (RESTART)."""
        ...

    async def put_foreign(self) -> None:
        """Makes resources of each kind at both ends as another would (FOREIGN)."""
        ...

    async def foreign(self) -> Mapping[str, str]:
        """Lists those that are there by name, with their versions (FOREIGN)."""
        ...

    async def refuse(self, words: str, routing_key: str) -> None:
        """Makes what carries the network refuse a listener of the public site, in these words, and with it all else
        where it can't tell them apart; empty words end it (REFUSE)."""
        ...

    async def take_away(self) -> None:
        """Makes what carries the network unreachable for the public site's drivers (TAKE_AWAY)."""
        ...

    async def bring_back(self) -> None:
        """Ends that (TAKE_AWAY)."""
        ...


Case = Callable[[DriverLab], Awaitable[None]]


@dataclass(slots=True)
class Ends:
    """Both ends of a network with one private site, and what each wants."""

    lab: DriverLab
    site: str
    public: NetworkDriver
    private: NetworkDriver
    wanted_here: DesiredNetwork
    wanted_there: DesiredNetwork

    async def apply(self) -> None:
        """Applies what is wanted at both ends."""
        await self.public.apply(self.wanted_here)
        await self.private.apply(self.wanted_there)

    async def seen_here(self) -> ObservedNetwork:
        """Observes at the public end."""
        return await self.public.observe(self.wanted_here)

    async def seen_there(self) -> ObservedNetwork:
        """Observes at the private end."""
        return await self.private.observe(self.wanted_there)

    async def is_linked(self) -> bool:
        """Tells whether the link carries calls as both ends see it, and each listener can be reached."""
        here, there = await self.seen_here(), await self.seen_there()
        links = [*here.links.values(), *there.links.values()]
        listeners = here.listeners.values()
        return all(holds(link.conditions, "Operational") is True for link in links) and all(
            holds(listener.conditions, "Reachable") is True for listener in listeners
        )


def holds(conditions: Sequence[Condition], type_: str) -> bool | None:
    """Gives whether a condition holds; it must be there."""
    found = [condition.holds for condition in conditions if condition.type == type_]
    assert len(found) == 1, f"one condition {type_} in {conditions}"
    return found[0]


async def comes_true(lab: DriverLab, check: Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits until `check` holds, at most as long as the lab takes to settle."""
    deadline = time.monotonic() + lab.settle_s
    while not await check():
        assert time.monotonic() < deadline, f"not within {lab.settle_s} s: {what}"
        await asyncio.sleep(POLL_S)


async def join(lab: DriverLab, site: str = "hospital-a", models: int = 1) -> Ends:
    """Invites a site and applies both ends; returns when it is linked."""
    public, private = await lab.public(), await lab.private(site)
    keys = [f"{site}.provisioner", *(f"{site}.model-{number}" for number in range(models))]
    resources = await public.invite(site, 600.0)
    here = DesiredNetwork(
        PUBLIC,
        admitted=(await lab.admitted(site),),
        listeners=tuple(DesiredListener(key, site) for key in keys),
    )
    there = DesiredNetwork(
        site,
        links=(await lab.link(site, resources),),
        connectors=tuple([DesiredConnector(key, await lab.target(site, key)) for key in keys]),
    )
    ends = Ends(lab, site, public, private, here, there)
    await ends.apply()
    await comes_true(lab, ends.is_linked, f"{site} is linked")
    return ends


async def leave(ends: Ends) -> None:
    """Has both ends want nothing any more."""
    ends.wanted_here = DesiredNetwork(PUBLIC)
    ends.wanted_there = DesiredNetwork(ends.site)
    await ends.apply()


async def what_is_wanted_becomes_true(lab: DriverLab) -> None:
    """Every link, listener and connector says that all is well, and a call gets through where calls are carried."""
    ends = await join(lab, models=2)
    here, there = await ends.seen_here(), await ends.seen_there()
    assert set(here.links) == {ends.site}
    assert set(here.listeners) == {listener.routing_key for listener in ends.wanted_here.listeners}
    assert set(there.links) == {link.id for link in ends.wanted_there.links}
    assert set(there.connectors) == {connector.routing_key for connector in ends.wanted_there.connectors}
    for link in (*here.links.values(), *there.links.values()):
        assert holds(link.conditions, "Configured") is True
    for listener in here.listeners.values():
        assert holds(listener.conditions, "Configured") is True
        assert holds(listener.conditions, "Matched") is not False
    for connector in there.connectors.values():
        assert holds(connector.conditions, "Configured") is True


async def calls_get_through(lab: DriverLab) -> None:
    """What says that it can be reached can be."""
    ends = await join(lab, models=2)
    for listener in ends.wanted_here.listeners:
        assert await lab.reaches(listener.routing_key), listener.routing_key


async def something_is_said_of_all_before_it_is_applied(lab: DriverLab) -> None:
    """Nothing is passed over in silence, and what does not hold says why in a sentence."""
    public, private = await lab.public(), await lab.private("hospital-a")
    here = DesiredNetwork(
        PUBLIC,
        admitted=(await lab.admitted("hospital-a"),),
        listeners=(DesiredListener("hospital-a.model-0", "hospital-a"),),
    )
    there = DesiredNetwork(
        "hospital-a", connectors=(DesiredConnector("hospital-a.model-0", await lab.target("hospital-a", "model-0")),)
    )
    seen_here, seen_there = await public.observe(here), await private.observe(there)
    conditions = [
        *seen_here.links["hospital-a"].conditions,
        *seen_here.listeners["hospital-a.model-0"].conditions,
        *seen_there.connectors["hospital-a.model-0"].conditions,
    ]
    assert holds(seen_here.links["hospital-a"].conditions, "Operational") is not True
    assert holds(seen_here.listeners["hospital-a.model-0"].conditions, "Reachable") is not True
    for condition in conditions:
        assert condition.reason, condition
        assert condition.holds is True or condition.message.endswith("."), condition


async def applied_again_nothing_changes(lab: DriverLab) -> None:
    """A second apply, and one in another order, write nothing."""
    ends = await join(lab, models=3)
    before = await lab.inventory()
    await ends.apply()
    ends.wanted_here = replace(ends.wanted_here, listeners=ends.wanted_here.listeners[::-1])
    ends.wanted_there = replace(ends.wanted_there, connectors=ends.wanted_there.connectors[::-1])
    await ends.apply()
    assert await lab.inventory() == before


async def what_is_wanted_no_longer_is_taken_away(lab: DriverLab) -> None:
    """One replica less leaves the others as they are."""
    ends = await join(lab, models=1)
    fewer = await lab.inventory()
    public_more = await _with_another_replica(ends)
    assert set(await lab.inventory()) > set(fewer)
    ends.wanted_here, ends.wanted_there = public_more
    await ends.apply()
    assert await lab.inventory() == fewer
    await comes_true(lab, ends.is_linked, "the others are as they were")


async def _with_another_replica(ends: Ends) -> tuple[DesiredNetwork, DesiredNetwork]:
    """Adds a replica at both ends, waits until it is reached, and gives what was wanted before."""
    former = (ends.wanted_here, ends.wanted_there)
    key = f"{ends.site}.model-9"
    listeners = (*ends.wanted_here.listeners, DesiredListener(key, ends.site))
    connector = DesiredConnector(key, await ends.lab.target(ends.site, key))
    ends.wanted_here = replace(ends.wanted_here, listeners=listeners)
    ends.wanted_there = replace(ends.wanted_there, connectors=(*ends.wanted_there.connectors, connector))
    await ends.apply()
    await comes_true(ends.lab, ends.is_linked, "another replica is reached")
    return former


async def a_new_driver_goes_on_from_what_is_there(lab: DriverLab) -> None:
    """A restarted provisioner finds all as it was, and can take away what the former one made."""
    ends = await join(lab, models=2)
    before = await lab.inventory()
    ends.public, ends.private = await lab.public(), await lab.private(ends.site)
    await comes_true(lab, ends.is_linked, "a new driver sees the link before it applied anything")
    await ends.apply()
    assert await lab.inventory() == before
    await leave(ends)
    assert not await lab.inventory()


async def what_others_made_is_not_touched(lab: DriverLab) -> None:
    """Foreign resources survive joins, changes and leaves as they are."""
    await lab.put_foreign()
    before = await lab.foreign()
    assert before
    ends = await join(lab, models=2)
    await ends.apply()
    assert await lab.foreign() == before
    await leave(ends)
    assert await lab.foreign() == before


async def a_restart_of_what_carries_it_is_survived(lab: DriverLab) -> None:
    """The link comes back with nobody applying anything."""
    ends = await join(lab)
    await lab.restart()
    await comes_true(lab, ends.is_linked, "linked after the restart")


async def a_cut_link_is_told_and_comes_back(lab: DriverLab) -> None:
    """Cut, it is not operational and says why; whole again, it comes back by itself."""
    ends = await join(lab)
    await lab.cut(ends.site)

    async def is_down() -> bool:
        return holds((await ends.seen_here()).links[ends.site].conditions, "Operational") is not True

    await comes_true(lab, is_down, "the public end says that the link is down")
    told = (await ends.seen_here()).links[ends.site].conditions
    assert all(condition.message.endswith(".") for condition in told if condition.holds is not True), told
    await lab.restore(ends.site)
    await comes_true(lab, ends.is_linked, "linked again")


async def a_site_no_longer_admitted_is_cut(lab: DriverLab) -> None:
    """The public end alone ends it, whatever the private one still wants."""
    ends = await join(lab)
    ends.wanted_here = DesiredNetwork(PUBLIC)
    await ends.public.apply(ends.wanted_here)

    async def is_cut() -> bool:
        links = (await ends.seen_there()).links.values()
        return all(holds(link.conditions, "Operational") is not True for link in links)

    await comes_true(lab, is_cut, "the private end has lost its link")


async def a_listener_without_a_connector_says_so(lab: DriverLab) -> None:
    """What nobody exposes is not matched, and the sentence says what to look for."""
    ends = await join(lab)
    lonely = DesiredListener(f"{ends.site}.model-7", ends.site)
    ends.wanted_here = replace(ends.wanted_here, listeners=(*ends.wanted_here.listeners, lonely))
    await ends.apply()

    async def says_so() -> bool:
        seen = (await ends.seen_here()).listeners[lonely.routing_key]
        (matched,) = [condition for condition in seen.conditions if condition.type == "Matched"]
        assert matched.message.endswith(".")
        assert holds(seen.conditions, "Reachable") is not True
        return matched.holds is False

    await comes_true(lab, says_so, "the lonely listener is not matched")


async def a_refusal_is_told_with_its_words(lab: DriverLab) -> None:
    """What carries the network is quoted, and wanting it again after it was mended works."""
    ends = await join(lab)
    former = (ends.wanted_here, ends.wanted_there)
    words = "quota of listeners is used up"
    lonely = DesiredListener(f"{ends.site}.model-8", ends.site)
    await lab.refuse(words, lonely.routing_key)
    ends.wanted_here = replace(ends.wanted_here, listeners=(*ends.wanted_here.listeners, lonely))
    with pytest.raises(DriverRefused, match=words):
        await ends.public.apply(ends.wanted_here)
    await lab.refuse("", lonely.routing_key)
    await ends.public.apply(ends.wanted_here)
    ends.wanted_here, ends.wanted_there = former
    await ends.apply()
    await comes_true(lab, ends.is_linked, "linked as before")


async def a_refused_one_does_not_hold_up_the_others(lab: DriverLab) -> None:
    """What is wanted beside what is refused is made all the same, and the refused one says why it is not."""
    ends = await join(lab)
    words, refused = "quota of listeners is used up", f"{ends.site}.model-8"
    await lab.refuse(words, refused)
    (former,) = [one.routing_key for one in ends.wanted_here.listeners if "model" in one.routing_key]
    more = (DesiredListener(refused, ends.site), DesiredListener(f"{ends.site}.model-9", ends.site))
    ends.wanted_here = replace(ends.wanted_here, listeners=(*more, *ends.wanted_here.listeners))
    with pytest.raises(DriverRefused, match=words):
        await ends.public.apply(ends.wanted_here)

    async def are_made() -> bool:
        seen = (await ends.seen_here()).listeners
        assert holds(seen[refused].conditions, "Configured") is not True
        return all(holds(seen[key].conditions, "Configured") is True for key in (f"{ends.site}.model-9", former))

    await comes_true(lab, are_made, "the others are configured")


async def what_is_away_is_told_and_comes_back(lab: DriverLab) -> None:
    """A driver that can't reach what carries the network says so, and needs nothing but another try."""
    ends = await join(lab)
    await lab.take_away()
    lonely = DesiredListener(f"{ends.site}.model-8", ends.site)
    wanted = replace(ends.wanted_here, listeners=(*ends.wanted_here.listeners, lonely))
    with pytest.raises(DriverUnavailable, match=r"\.$"):
        await ends.public.apply(wanted)
    await lab.bring_back()
    await ends.apply()
    await comes_true(lab, ends.is_linked, "linked as before")


async def ten_joins_and_leaves_leave_nothing(lab: DriverLab) -> None:
    """Neither end keeps anything of a site that came and went, ten times in a row."""
    for number in range(JOINS):
        ends = await join(lab)
        assert await lab.inventory()
        await leave(ends)
        assert not await lab.inventory(), f"after leave {number + 1}"


async def two_sites_are_apart(lab: DriverLab) -> None:
    """What happens to one site's link leaves the other's as it is."""
    first = await join(lab, "hospital-a")
    second = await join_beside(first, "hospital-b")
    first.wanted_here = second.wanted_here = _without(second.wanted_here, "hospital-a")
    await first.public.apply(first.wanted_here)

    async def is_gone() -> bool:
        links = (await first.seen_there()).links.values()
        return all(holds(link.conditions, "Operational") is not True for link in links)

    await comes_true(lab, is_gone, "hospital-a is cut")
    assert await second.is_linked()


async def join_beside(first: Ends, site: str) -> Ends:
    """Joins another site to the same public one."""
    lab, key = first.lab, f"{site}.model-0"
    private = await lab.private(site)
    here = replace(
        first.wanted_here,
        admitted=(*first.wanted_here.admitted, await lab.admitted(site)),
        listeners=(*first.wanted_here.listeners, DesiredListener(key, site)),
    )
    there = DesiredNetwork(
        site,
        links=(await lab.link(site, await first.public.invite(site, 600.0)),),
        connectors=(DesiredConnector(key, await lab.target(site, key)),),
    )
    first.wanted_here = here
    ends = Ends(lab, site, first.public, private, here, there)
    await ends.apply()
    await comes_true(lab, ends.is_linked, f"{site} is linked")
    return ends


def _without(network: DesiredNetwork, site: str) -> DesiredNetwork:
    return replace(
        network,
        admitted=tuple(one for one in network.admitted if one.id != site),
        listeners=tuple(one for one in network.listeners if one.site != site),
    )


NEEDS: Mapping[Case, frozenset[Ability]] = {
    what_is_wanted_becomes_true: frozenset(),
    calls_get_through: frozenset({Ability.CALL}),
    something_is_said_of_all_before_it_is_applied: frozenset(),
    applied_again_nothing_changes: frozenset(),
    what_is_wanted_no_longer_is_taken_away: frozenset(),
    a_new_driver_goes_on_from_what_is_there: frozenset(),
    what_others_made_is_not_touched: frozenset({Ability.FOREIGN}),
    a_restart_of_what_carries_it_is_survived: frozenset({Ability.RESTART}),
    a_cut_link_is_told_and_comes_back: frozenset({Ability.CUT}),
    a_site_no_longer_admitted_is_cut: frozenset(),
    a_listener_without_a_connector_says_so: frozenset({Ability.MATCH}),
    a_refusal_is_told_with_its_words: frozenset({Ability.REFUSE}),
    a_refused_one_does_not_hold_up_the_others: frozenset({Ability.REFUSE, Ability.REFUSE_ONE}),
    what_is_away_is_told_and_comes_back: frozenset({Ability.TAKE_AWAY}),
    ten_joins_and_leaves_leave_nothing: frozenset(),
    two_sites_are_apart: frozenset(),
}


def cases(*abilities: Ability) -> Sequence[Case]:
    """Gives the cases that a lab with these abilities can run."""
    return [case for case, needed in NEEDS.items() if needed <= set(abilities)]
