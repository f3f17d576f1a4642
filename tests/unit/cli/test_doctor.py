"""What `redoma doctor` finds: each trouble is named with the command that mends it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from redoma.provisioner.v1 import network_pb2
from redoma.provisioner.v1.site_pb2 import Site
from redoma_cli.client import read_demo
from redoma_cli.context import CommandContext
from redoma_cli.errors import CliError
from redoma_cli.local.doctor import examine
from redoma_cli.local.doctor_link import link, refusals
from redoma_cli.local.doctor_trust import certificates, clock
from redoma_cli.local.finding import Finding, Health
from redoma_cli.local.membership import Failure
from redoma_cli.local.options import SiteChoice, Sites, write_choice
from redoma_cli.local.pki import LEAF_LIFETIME, DevelopmentAuthority
from redoma_cli.local.plan import STOP_ORDER, pid_file
from redoma_cli.local.process import PidFile, ProcessIdentity, current_identity, start_ticks
from redoma_cli.local.state import Journal, State, state_file
from tests.unit.cli.joined import run_provisioner, write_membership, write_state
from tests.unit.cli.network_site import Network, one_site, said
from tests.unit.cli.test_van_commands import served

NOW = datetime.now(UTC)


def context_of(network: Network, **environ: str) -> CommandContext:
    """Gives the surroundings of a command on this home."""
    quiet = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    return CommandContext({"PATH": os.environ["PATH"], **environ}, None, network.home, quiet, quiet)


def found(findings: Iterator[Finding], subject: str) -> list[Finding]:
    """Gives what was found of a subject."""
    return [finding for finding in findings if finding.subject == subject]


def only(findings: Iterator[Finding], subject: str) -> Finding:
    """Gives the one thing found of a subject."""
    (finding,) = found(findings, subject)
    return finding


def closed_port() -> int:
    """Gives a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def undialled() -> Failure:
    """Stands for dialling where nothing is to be dialled."""
    raise AssertionError("the public site was dialled")


@pytest.fixture
def signed(network: Network) -> DevelopmentAuthority:
    """The public site's authority of the network's home."""
    authority = DevelopmentAuthority(network.home.pki)
    authority.ensure()
    return authority


@pytest.fixture
def sleeper() -> Iterator[ProcessIdentity]:
    """A process that does nothing."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield ProcessIdentity(process.pid, start_ticks(process.pid) or 0)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("proxy", ["edge", "egress", "gateway"])
def test_halted_and_dead_envoys_are_found(network: Network, sleeper: ProcessIdentity, proxy: str) -> None:
    journal = Journal(state_file(network.home))
    for name in STOP_ORDER:
        identity = sleeper if name == proxy else current_identity()
        PidFile(pid_file(network.home, name)).write(identity, "one")
        journal.record(name, State.READY, identity, 0)
    context = context_of(network)
    assert only(examine(context), proxy).health is Health.GOOD
    os.kill(sleeper.pid, signal.SIGSTOP)
    while not sleeper.halted():
        pass
    halted = only(examine(context), proxy)
    assert halted.health is Health.BAD
    assert f"kill -CONT {sleeper.pid}" in halted.mend
    pid_file(network.home, proxy).unlink()
    dead = only(examine(context), proxy)
    assert dead.health is Health.BAD
    assert "redoma up" in dead.mend


@pytest.mark.parametrize(("variable", "subject"), [("REDOMA_PORT", "port"), ("REDOMA_VAN_PORT", "VAN port")])
def test_occupied_port_is_found(network: Network, tmp_path: Path, variable: str, subject: str) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    envoy = tmp_path / "envoy"
    envoy.write_text("#!/bin/sh\n")
    envoy.chmod(0o755)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        environ = {"PATH": str(tmp_path), "REDOMA_MODEL": str(model), variable: port}
        finding = only(examine(context_of(network, **environ)), subject)
    assert finding.health is Health.BAD
    assert f"{variable}=" in finding.mend


def test_clock_that_is_behind_the_certificates_is_found(network: Network, signed: DevelopmentAuthority) -> None:
    write_membership(network.home)
    write_state(network.home, "LINKED")
    now = datetime.now(UTC)
    assert clock(network.home, Sites.BOTH, now).health is Health.GOOD
    for sites in (Sites.BOTH, Sites.PUBLIC, Sites.PRIVATE):
        behind = clock(network.home, sites, now - timedelta(days=3))
        assert behind.health is Health.BAD
        assert "timedatectl" in behind.mend


def test_clock_that_differs_from_the_other_sides_is_found(network: Network) -> None:
    network.settle()
    view = one_site()
    view.sites[1].conditions.append(said("ClockInStep", False, "ClockAhead", "Its clock is 4 min ahead."))
    network.answers["WatchNetwork"] = view
    network.answers["ListProxies"] = served()
    finding = only(link(network.home, Sites.PUBLIC, read_demo(network.home), undialled), "clock")
    assert finding.health is Health.BAD
    assert finding.sentence == "Its clock is 4 min ahead."


def test_certificates_that_end_soon_or_have_ended_are_found(network: Network, signed: DevelopmentAuthority) -> None:
    write_membership(network.home)

    def healths(now: datetime) -> list[Health]:
        return [finding.health for finding in certificates(network.home, Sites.BOTH, now)]

    assert healths(NOW) == [Health.GOOD, Health.GOOD]
    assert healths(NOW + LEAF_LIFETIME - timedelta(days=10)) == [Health.BAD, Health.GOOD]
    assert healths(NOW + LEAF_LIFETIME - timedelta(days=3)) == [Health.BAD, Health.BAD]
    expired = list(certificates(network.home, Sites.BOTH, NOW + LEAF_LIFETIME + timedelta(days=1)))
    assert "expired" in expired[0].sentence
    assert "expired" in expired[1].sentence
    alone = only(certificates(network.home, Sites.PRIVATE, NOW + LEAF_LIFETIME + timedelta(days=1)), "membership")
    assert "redoma up --site private --join TOKEN" in alone.mend


def test_missing_and_damaged_membership_is_found(network: Network, signed: DevelopmentAuthority) -> None:
    assert "not joined" in only(certificates(network.home, Sites.PRIVATE, NOW), "membership").sentence
    directory = write_membership(network.home)
    (directory / "current" / "model" / "tls.key").unlink()
    damaged = only(certificates(network.home, Sites.BOTH, NOW), "membership")
    assert damaged.health is Health.BAD
    assert "redoma up" in damaged.mend


def test_why_the_link_is_down_is_what_dialling_as_the_gateway_finds(
    network: Network, signed: DevelopmentAuthority
) -> None:
    write_membership(network.home, "hospital-a")
    run_provisioner(network.home)
    write_state(network.home, "JOINED", "hospital-a", link_address="127.0.0.1:1")

    def of(reason: str) -> Finding:
        return only(link(network.home, Sites.PRIVATE, None, lambda: Failure(reason, f"It is {reason}.", "")), "link")

    assert of("Refused").sentence == "It is Refused."
    assert "redoma doctor" in of("Refused").mend
    assert "redoma van grant --site hospital-a --rejoin" in of("CertificateRefused").mend
    assert "redoma logs gateway" in of("NotDialled").mend
    assert {of(reason).health for reason in ("Refused", "CertificateRefused", "NotDialled")} == {Health.BAD}

    def damaged() -> Failure:
        raise CliError("The site's files are damaged.", "Join anew.")

    told = only(link(network.home, Sites.PRIVATE, None, damaged), "link")
    assert told.health is Health.BAD and told.sentence and told.mend
    write_state(network.home, "LINKED", "hospital-a")
    assert only(link(network.home, Sites.PRIVATE, None, undialled), "link").health is Health.GOOD


def test_revoked_site_is_found_with_what_lets_it_in_anew(network: Network) -> None:
    network.settle()
    network.answers["ListProxies"] = served()
    network.answers["WatchNetwork"] = one_site(linked=False, state=Site.STATE_REVOKED)
    write_state(network.home, "JOINED")
    finding = only(link(network.home, Sites.BOTH, read_demo(network.home), undialled), "link")
    assert finding.health is Health.BAD
    assert "redoma van delete private" in finding.mend


def test_unlinked_site_elsewhere_is_found_with_the_public_sites_words(network: Network) -> None:
    network.settle()
    network.answers["ListProxies"] = served()
    network.answers["WatchNetwork"] = one_site("hospital-a", linked=False, why="No tunnel is open.")
    finding = only(link(network.home, Sites.PUBLIC, read_demo(network.home), undialled), "link")
    assert "No tunnel is open." in finding.sentence
    assert "redoma doctor" in finding.mend
    network.answers["WatchNetwork"] = network_pb2.WatchNetworkResponse()
    nobody = only(link(network.home, Sites.PUBLIC, read_demo(network.home), undialled), "link")
    assert nobody.health is Health.WARNING
    assert "redoma van grant" in nobody.mend


def test_refusal_of_an_envoy_is_found_with_its_words() -> None:
    finding = only(refusals(served("unknown field [x]").proxies), "envoy config")
    assert finding.health is Health.BAD
    assert "unknown field [x]" in finding.sentence
    assert "redoma van proxies egress" in finding.mend
    assert only(refusals(served(connected=False).proxies), "envoy config").health is Health.BAD
    assert only(refusals(served().proxies), "envoy config").health is Health.GOOD


def test_address_that_no_other_machine_reaches_is_found(network: Network, tmp_path: Path) -> None:
    envoy = tmp_path / "envoy"
    envoy.write_text("#!/bin/sh\n")
    envoy.chmod(0o755)
    write_choice(network.home, SiteChoice(Sites.PUBLIC, "127.0.0.1:8443"))
    environ = {"PATH": str(tmp_path), "REDOMA_VAN_PORT": str(closed_port()), "REDOMA_PORT": str(closed_port())}
    findings = found(examine(context_of(network, **environ)), "VAN port")
    assert [finding.health for finding in findings] == [Health.GOOD, Health.BAD]
    assert "--van-address" in findings[1].mend
