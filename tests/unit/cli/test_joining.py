"""How both sites come up and join: what is done once, what is done again, and when a person is asked instead."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from redoma_cli.errors import CliError
from redoma_cli.local import joining
from redoma_cli.local.home import Home
from redoma_cli.local.joining import SiteRaiser
from redoma_cli.local.membership import Failure, MembershipState, Step
from redoma_cli.local.options import SiteChoice, SiteOptions, Sites
from redoma_cli.local.pki import LEAF_LIFETIME, DevelopmentAuthority
from redoma_cli.local.plan import PRIVATE_PROCESSES, PUBLIC_PROCESSES, ProbeSpec, ProcessSpec
from redoma_cli.local.site import LocalSites
from redoma_cli.local.standing import (
    LINK_TIMEOUT_S,
    REFUSED_TIMEOUT_S,
    LinkOfBoth,
    LinkOfPrivate,
    MembershipForgotten,
    Standing,
)
from redoma_cli.local.state import ProcessState
from redoma_cli.local.up import SiteStarter
from tests.unit.cli.joined import write_membership, write_state

TOKEN = "rdmj_the-token"


def specs_of(names: tuple[str, ...]) -> list[ProcessSpec]:
    """Plans processes that nobody starts."""
    return [ProcessSpec(name, (), {}, ProbeSpec("envoy", "x"), "one") for name in names]


@dataclass
class FakeProvisioner:
    """Makes grants and joins without a program."""

    home: Home
    log: list[str]
    site: str = "private"
    refusal: CliError | None = None

    def make_link_grant(self, site: str, rejoin: bool) -> str:
        """Takes note."""
        self.log.append(f"{'rejoin' if rejoin else 'grant'} {site}")
        self.site = site
        return TOKEN

    def join(self, token: str, heard: Callable[[Step], None], link_file: Path | None) -> None:
        """Leaves a membership."""
        self.log.append(f"join {token}")
        heard(Step("Read the token", "done"))
        if self.refusal is not None:
            raise self.refusal
        write_membership(self.home, self.site)
        write_state(self.home, "JOINED", self.site)


@dataclass
class Machine:
    """A machine of one or both sites whose processes are only noted."""

    home: Home
    authority: DevelopmentAuthority
    options: SiteOptions
    log: list[str] = field(default_factory=list)
    provisioner: FakeProvisioner = field(init=False)
    forgotten: bool = False
    edge: str = "http://127.0.0.1:1"
    admin_key: str = "k"

    def __post_init__(self) -> None:
        self.provisioner = FakeProvisioner(self.home, self.log)

    def public_specs(self) -> list[ProcessSpec]:
        """Plans the public site."""
        return specs_of(PUBLIC_PROCESSES)

    def private_specs(self, site: str) -> list[ProcessSpec]:
        """Plans the private site."""
        self.log.append(f"configure {site}")
        return specs_of(PRIVATE_PROCESSES)

    def public_provisioner(self) -> FakeProvisioner:
        """Makes grants."""
        return self.provisioner

    def private_provisioner(self) -> FakeProvisioner:
        """Joins."""
        return self.provisioner

    def write_join_settings(self) -> None:
        """Makes the directories."""
        self.home.private.create()

    def start(
        self, specs: list[ProcessSpec], progress: Callable[[Mapping[str, ProcessState]], None], ready: object
    ) -> bool:
        """Notes which sites are started."""
        self.log.append("start " + "+".join(sorted({spec.site for spec in specs})))
        if isinstance(ready, LinkOfBoth) and self.forgotten:
            self.forgotten = False
            raise MembershipForgotten()
        return True

    def clear(self) -> None:
        """Notes that all was ended."""
        self.log.append("end all")

    def show(self, states: Mapping[str, ProcessState]) -> None:
        """Shows nothing."""

    def step(self, step: Step) -> None:
        """Notes a step."""
        self.log.append(f"{step.title}{': ' if step.detail else ''}{step.detail}")

    def raiser(self) -> SiteRaiser:
        """Gives what brings this machine up."""
        return SiteRaiser(
            cast(LocalSites, self), cast(SiteStarter, self), self, lambda: self.log.append("make the demo tenants")
        )


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> list[Standing]:
    """What the public site says of the private one; the last entry counts."""
    told = [Standing.UNTOLD]
    monkeypatch.setattr(joining, "ask_standing", lambda edge, key, site: (told[-1], ""))
    return told


@pytest.fixture
def machine(home: Home, authority: DevelopmentAuthority, standing: list[Standing]) -> Machine:
    """A machine with both sites."""
    return Machine(home, authority, SiteOptions(1, 1.0, None, Path("envoy"), (), False))


@pytest.fixture
def private(machine: Machine) -> Machine:
    """A machine with the private site alone."""
    choice = SiteChoice(Sites.PRIVATE)
    return Machine(machine.home, machine.authority, SiteOptions(1, 1.0, None, Path("envoy"), (), False, choice=choice))


def test_first_up_joins_by_a_grant_and_the_second_does_none_of_that(machine: Machine) -> None:
    assert machine.raiser().raise_both() is False
    assert machine.log == [
        "start public",
        "make the demo tenants",
        "grant private",
        "Make a grant for site private",
        f"join {TOKEN}",
        "Read the token",
        "configure private",
        "start private+public",
    ]
    machine.log.clear()
    assert machine.raiser().raise_both() is True
    assert machine.log == ["configure private", "start private+public"]


def test_site_keeps_its_name_through_a_new_join(machine: Machine) -> None:
    write_membership(machine.home, "hospital-a", stranger=True)
    machine.raiser().raise_both()
    assert "grant hospital-a" in machine.log
    assert any("another authority" in line for line in machine.log)
    assert machine.log[-2:] == ["configure hospital-a", "start private+public"]


def test_expired_and_damaged_memberships_are_joined_anew_by_themselves(machine: Machine) -> None:
    write_membership(machine.home, age=LEAF_LIFETIME + timedelta(days=1))
    machine.raiser().raise_both()
    assert "grant private" in machine.log
    machine.log.clear()
    (machine.home.private.membership / "current" / "model" / "tls.key").write_text("")
    machine.raiser().raise_both()
    assert "grant private" in machine.log


def test_site_that_the_public_one_forgot_is_joined_anew(machine: Machine) -> None:
    write_membership(machine.home)
    machine.forgotten = True
    assert machine.raiser().raise_both() is False
    assert machine.log[:3] == ["configure private", "start private+public", "start public"]
    assert "grant private" in machine.log


def test_site_whose_membership_was_lost_here_is_let_in_by_a_grant_to_rejoin(
    machine: Machine, standing: list[Standing]
) -> None:
    standing.append(Standing.JOINED)
    machine.raiser().raise_both()
    assert "rejoin private" in machine.log


def test_revoked_site_is_never_joined_anew_without_a_person(machine: Machine, standing: list[Standing]) -> None:
    standing.append(Standing.REVOKED)
    with pytest.raises(CliError, match="revoked") as told:
        machine.raiser().raise_both()
    assert "redoma van delete private" in told.value.mend
    assert not any(line.startswith(("grant", "join")) for line in machine.log)


def test_private_site_alone_says_how_to_join(private: Machine) -> None:
    with pytest.raises(CliError, match="has not joined") as told:
        private.raiser().raise_private("")
    assert "redoma van grant --site NAME" in told.value.mend
    assert "redoma up --site private --join TOKEN" in told.value.mend
    assert "start private" not in private.log


def test_private_site_alone_joins_once_with_a_token(private: Machine) -> None:
    assert private.raiser().raise_private(TOKEN) is False
    assert private.log == [f"join {TOKEN}", "Read the token", "end all", "configure private", "start private"]
    private.log.clear()
    # The same line typed again, and later none at all.
    assert private.raiser().raise_private(TOKEN) is True
    assert private.raiser().raise_private("") is True
    assert private.log == ["configure private", "start private"] * 2
    assert private.raiser().raise_private("rdmj_another") is False
    assert "join rdmj_another" in private.log
    kept = (private.home.private.config / "joined-with").read_text()
    assert "another" not in kept
    assert kept.strip() == hashlib.sha256(b"rdmj_another").hexdigest()


def test_refused_token_leaves_what_runs_as_it_is(private: Machine) -> None:
    private.raiser().raise_private(TOKEN)
    private.log.clear()
    private.provisioner.refusal = CliError("The token was used already.", "Ask for another.")
    with pytest.raises(CliError, match="used already"):
        private.raiser().raise_private("rdmj_used")
    assert "end all" not in private.log
    private.log.clear()
    assert private.raiser().raise_private("") is True


def test_expired_private_site_alone_asks_for_a_rejoin(private: Machine) -> None:
    write_membership(private.home, "hospital-a", age=LEAF_LIFETIME + timedelta(days=1))
    with pytest.raises(CliError, match="expired") as told:
        private.raiser().raise_private("")
    assert "redoma van grant --site hospital-a --rejoin" in told.value.mend


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_link_that_never_comes_up_is_told_with_the_public_sites_words() -> None:
    clock = Clock()
    link = LinkOfBoth(1, "private", lambda site: (Standing.JOINED, "No tunnel is open."), clock, lambda port: False)
    assert not link()
    clock.now = LINK_TIMEOUT_S - 0.1
    assert not link()
    clock.now = LINK_TIMEOUT_S + 2
    with pytest.raises(CliError, match=r"No tunnel is open\.") as told:
        link()
    assert "redoma van status" in told.value.mend


def test_link_is_up_when_a_model_answers_whatever_else_is_said() -> None:
    assert LinkOfBoth(1, "private", lambda site: (Standing.REVOKED, ""), Clock(), lambda port: True)()


def test_revoked_and_forgotten_sites_are_not_waited_for() -> None:
    revoked = LinkOfBoth(1, "private", lambda site: (Standing.REVOKED, ""), Clock(), lambda port: False)
    with pytest.raises(CliError, match="revoked"):
        revoked()
    forgotten = LinkOfBoth(1, "private", lambda site: (Standing.FORGOTTEN, ""), Clock(), lambda port: False)
    with pytest.raises(MembershipForgotten):
        forgotten()


def test_public_site_is_asked_now_and_then_only() -> None:
    clock, asked = Clock(), list[str]()

    def ask(site: str) -> tuple[Standing, str]:
        asked.append(site)
        return Standing.UNTOLD, ""

    link = LinkOfBoth(1, "private", ask, clock, lambda port: False)
    for _ in range(20):
        link()
        clock.now += 0.1
    assert len(asked) == 1


def test_private_site_waits_for_its_link_and_tells_its_own_error(home: Home) -> None:
    clock, states = Clock(), [MembershipState("JOINED", "private")]
    link = LinkOfPrivate(lambda: states[-1], clock)
    assert not link()
    states.append(MembershipState("LINKED", "private"))
    assert link()
    states.append(MembershipState("JOINED", "private", error=joining_failure()))
    clock.now = LINK_TIMEOUT_S
    with pytest.raises(CliError, match=r"The door is shut\.") as told:
        link()
    assert told.value.mend == "Open it."


def test_private_site_that_is_refused_is_told_so_long_before_it_would_give_up(home: Home) -> None:
    clock = Clock()
    refused = Failure("CertificateRefused", "It was revoked.", "")
    link = LinkOfPrivate(lambda: MembershipState("JOINED", "private", error=refused), clock)
    assert not link()
    clock.now = REFUSED_TIMEOUT_S
    with pytest.raises(CliError, match=r"It was revoked\.") as told:
        link()
    assert "redoma doctor" in told.value.mend


def joining_failure() -> Failure:
    """An error that the private provisioner told."""
    return Failure("SHUT", "The door is shut.", "Open it.")
