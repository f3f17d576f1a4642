"""What is told of each state that the real Skupper was recorded in, and of each of its failures.

States: a made and not started, b0 running with no system controller, b running and not linked, c linked, d0 and d the
private router killed 3 s and 35 s ago, e back, f and f2 the public router stopped 8 s and 38 s ago.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

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
)
from redoma_provisioner.network.drivers.skupper.status import peer_of, peer_sites
from redoma_provisioner.network.drivers.skupper_system.cli import parse_documents
from redoma_provisioner.network.drivers.skupper_system.failure import failure_of, is_refusal
from redoma_provisioner.network.drivers.skupper_system.process import Outcome
from tests.fakes.skupper_cli import recorded
from tests.unit.provisioner.skupper_system.system_lab import PUBLIC, SystemLab, system_controller

PRIVATE = "private"
LINK = "link-public-access"
HERE = DesiredNetwork(PUBLIC, admitted=(AdmittedSite(PRIVATE),), listeners=(DesiredListener("gen", PRIVATE),))


@dataclass(frozen=True, slots=True)
class State:
    """A recorded state, which ends are up in it, and what must be told of it."""

    name: str
    public_up: bool
    private_up: bool
    carries: bool
    link_here: tuple[bool | None, str]
    matched_here: tuple[bool | None, str]
    link_there: tuple[bool | None, str]
    matched_there: tuple[bool | None, str]
    controller: bool = True


UP, MATCHED, DOWN = (True, "Operational"), (True, "Matched"), (False, "RouterDown")
FROZEN = (None, "ControllerNotRunning")
NO_CONNECTOR, NO_LISTENER = (False, "NoMatchingConnector"), (False, "NoMatchingListener")
STATES = [
    State("b0", True, True, False, FROZEN, FROZEN, FROZEN, FROZEN, controller=False),
    State("b", True, True, False, (False, "NotLinked"), NO_CONNECTOR, (False, "LinkPending"), NO_LISTENER),
    State("c", True, True, True, UP, MATCHED, UP, MATCHED),
    State("d0", True, False, False, UP, MATCHED, DOWN, DOWN),
    State("d", True, False, False, (False, "NotLinked"), NO_CONNECTOR, DOWN, DOWN),
    State("e", True, True, True, UP, MATCHED, UP, MATCHED),
    State("f2", False, True, False, DOWN, DOWN, (False, "EndpointUnreachable"), NO_LISTENER),
]


async def put(lab: SystemLab) -> DesiredNetwork:
    """Makes both ends as the recorded ones are called; gives what the private one wants."""
    public = lab.driver(PUBLIC)
    link = DesiredLink(LINK, resources=await public.invite(PRIVATE, 60))
    await public.apply(HERE)
    there = DesiredNetwork(PRIVATE, links=(link,), connectors=(DesiredConnector("gen", "127.0.0.1:50051"),))
    await lab.driver(PRIVATE).apply(there)
    return there


def said(conditions: tuple[Condition, ...], type_: str) -> tuple[bool | None, str]:
    """Gives what is said of one type; what does not hold must have a sentence."""
    (found,) = [one for one in conditions if one.type == type_]
    assert found.holds is True or found.message.endswith("."), found
    return found.holds, found.reason


def replay(lab: SystemLab, state: State, side: str) -> None:
    """Has status commands print what the real ones did in a state at one side."""
    kinds = ["site", "link", "listener", "connector"]
    there = {f"{kind} status": f"{state.name}_{side}_{kind}_status" for kind in kinds}
    recordings = {command: name for command, name in there.items() if _is_recorded(name)}
    up = {PUBLIC: state.public_up, PRIVATE: state.private_up}
    down = [lab.tree(site).key for site, is_up in up.items() if not is_up]
    # What nothing carries has no open port, whatever the recorded statuses say.
    lab.control.put(replay=recordings, down=down, cut=[] if state.carries else [PRIVATE])


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
async def test_a_recorded_state_is_told_with_its_reason(tmp_path: Path, state: State) -> None:
    lab = SystemLab(tmp_path)
    there = await put(lab)
    async with controllers(lab, run=state.controller):
        replay(lab, state, "pub")
        here_seen = await lab.driver(PUBLIC).observe(HERE)
        replay(lab, state, "priv")
        there_seen = await lab.driver(PRIVATE).observe(there)
    assert said(here_seen.links[PRIVATE].conditions, "Operational") == state.link_here
    assert said(here_seen.listeners["gen"].conditions, "Matched") == state.matched_here
    assert said(here_seen.listeners["gen"].conditions, "Reachable")[0] is state.carries
    assert said(there_seen.links[LINK].conditions, "Operational") == state.link_there
    assert said(there_seen.connectors["gen"].conditions, "Matched") == state.matched_there


async def test_a_site_that_was_never_started_says_so(lab: SystemLab) -> None:
    """State a."""
    seen = await lab.driver(PUBLIC).observe(HERE)
    assert said(seen.listeners["gen"].conditions, "Reachable") == (False, "NotStarted")
    seen = await lab.driver(PRIVATE).observe(DesiredNetwork(PRIVATE, links=(DesiredLink(LINK),)))
    assert said(seen.links[LINK].conditions, "Operational") == (False, "NotStarted")


async def test_a_closed_port_is_noticed_before_skupper_does(tmp_path: Path) -> None:
    """In state d0 Skupper says Matched of a listener whose port has been closed for 3 s, and would for 28 s more."""
    lab = SystemLab(tmp_path)
    await put(lab)
    async with controllers(lab, run=True):
        replay(lab, STATES[3], "pub")
        listener = (await lab.driver(PUBLIC).observe(HERE)).listeners["gen"]
    assert said(listener.conditions, "Reachable") == (False, "NothingListens")


@pytest.mark.parametrize("recording", ["link_wrong_ca_link_status", "link_wrong_port_link_status"])
async def test_not_operational_is_told_with_its_cause(tmp_path: Path, recording: str) -> None:
    """Skupper says the same of a wrong port as of a wrong authority."""
    lab = SystemLab(tmp_path)
    there = await put(lab)
    wrong_ca = "ca" in recording
    lab.control.put(replay={"link status": recording}, down=[] if wrong_ca else [lab.tree(PUBLIC).key])
    if wrong_ca:
        (issuer,) = (lab.tree(PUBLIC).root / "runtime" / "issuers").glob("*/ca.crt")
        issuer.write_text("another")
    async with controllers(lab, run=True):
        link = (await lab.driver(PRIVATE).observe(there)).links[LINK]
    assert said(link.conditions, "Operational")[1] == ("EndpointNotTrusted" if wrong_ca else "EndpointUnreachable")


@pytest.mark.parametrize(
    ("recording", "mend", "kind"),
    [
        ("err_no_platform_system_reload", "set driver.platform to podman", DriverRefused),
        ("err_no_platform_site_status", "set driver.platform to podman", DriverRefused),
        ("err_unknown_platform", "Set driver.platform", DriverRefused),
        ("err_no_router_system_start", "Install Skupper's router", DriverRefused),
        ("err_reload_no_router", "Install Skupper's router", DriverRefused),
        ("err_no_systemd_system_start", "loginctl enable-linger", DriverUnavailable),
        ("err_reload_no_systemd", "loginctl enable-linger", DriverUnavailable),
        ("system_stop_no_engine", "podman.socket", DriverUnavailable),
        ("err_system_stop_other_platform", "was started on another platform", DriverRefused),
        ("err_two_sites_system_start", "a namespace has one site", DriverRefused),
        ("accesstoken_good_reload", "AccessToken of another hand", DriverRefused),
        ("accesstoken_apply_start_used", "AccessToken of another hand", DriverRefused),
        ("err_no_namespace_system_reload", "looks elsewhere than Redoma writes", DriverRefused),
        ("err_no_namespace_link_generate", "looks elsewhere than Redoma writes", DriverRefused),
        ("err_unknown_command", "install Skupper 2.2.1", DriverRefused),
        ("err_unknown_flag", "install Skupper 2.2.1", DriverRefused),
        ("start_without_site", "no valid site definition", DriverRefused),
        ("start_with_s4", "invalid listener name", DriverRefused),
        ("err_reload_bad_connector", "connector host and port are required", DriverRefused),
        ("link_no_secret_start", "no secrets found", DriverRefused),
    ],
)
def test_a_recorded_failure_says_what_to_do(recording: str, mend: str, kind: type[Exception]) -> None:
    found = recorded(recording)
    outcome = Outcome(int(str(found["exit_code"])), str(found["stdout"]), str(found["stderr"]))
    assert is_refusal(outcome)
    error = failure_of("system reload", outcome)
    assert type(error) is kind
    assert mend in str(error)
    assert str(error).endswith(".")
    assert len(str(error)) < 800
    assert "\n" not in str(error)


def test_documents_follow_one_another_and_sentences_are_none() -> None:
    assert len(parse_documents(str(recorded("status_several_listeners_json")["stdout"]))) == 5
    assert parse_documents(str(recorded("a_priv_listener_status")["stdout"])) == []
    assert parse_documents(str(recorded("a_priv_link_status")["stdout"])) == []
    assert parse_documents('{"a": 1}\n{"b": ') == [{"a": 1}]
    assert parse_documents("[" * 100_000 + "{" * 100_000) == []


def test_the_picture_of_the_network_names_the_linked_site() -> None:
    (site,) = parse_documents(str(recorded("c_pub_site_status")["stdout"]))
    found = peer_of(peer_sites(site), PRIVATE)
    assert found is not None
    assert (found.operational_links, sorted(found.connectors)) == (1, ["gen"])
    assert peer_of(peer_sites(site), "priv") is None
    assert peer_of(peer_sites(site), "private-1795150974") is None


@asynccontextmanager
async def controllers(lab: SystemLab, *, run: bool) -> AsyncIterator[None]:
    """Runs a system controller at either end, or none."""
    async with AsyncExitStack() as stack:
        for site in (PUBLIC, PRIVATE) if run else ():
            await stack.enter_async_context(system_controller(lab, site, automatic=False))
        yield


def _is_recorded(name: str) -> bool:
    try:
        recorded(name)
    except KeyError:
        return False
    return True
