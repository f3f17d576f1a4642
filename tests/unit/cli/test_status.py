"""What `redoma status` draws of both sites and the link, on wide and narrow terminals, and what it exits with."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from redoma.provisioner.v1.site_pb2 import Site
from redoma_cli.commands.drawing import DrawnSite, draw
from redoma_cli.local.options import SiteChoice, Sites, write_choice
from redoma_cli.local.plan import PRIVATE_PROCESSES, PUBLIC_PROCESSES, STOP_ORDER, pid_file
from redoma_cli.local.process import PidFile, ProcessIdentity, current_identity
from redoma_cli.local.state import Journal, ProcessState, State, state_file
from redoma_cli.network import LinkHealth, health_of, links_of, private_sites
from tests.unit.cli.joined import write_state
from tests.unit.cli.network_site import Network, one_site

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def running(network: Network, *names: str) -> None:
    """Makes these processes run, as far as the home says; each is this one."""
    journal = Journal(state_file(network.home))
    for name in names:
        PidFile(pid_file(network.home, name)).write(current_identity(), "one")
        journal.record(name, State.READY, current_identity(), 0)


def drawn(columns: int, *links: LinkHealth) -> str:
    """Draws both sites."""
    ready = ProcessState(State.READY, 7, 1, NOW.timestamp(), 0)
    public = DrawnSite("public site http://127.0.0.1:8080", dict.fromkeys(PUBLIC_PROCESSES, ready))
    private = DrawnSite("private site private", dict.fromkeys(PRIVATE_PROCESSES, ready))
    console = Console(width=columns, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(draw(public, [(link, private) for link in links], columns, NOW))
    return console.export_text()


UP = LinkHealth("private", "Linked", "", "embedded", 4, NOW - timedelta(minutes=3))
DOWN = LinkHealth("private", "Not linked", "No tunnel is open.", "embedded")


def test_wide_terminal_shows_the_sites_beside_each_other_with_the_link_between() -> None:
    text = drawn(140, UP)
    (line,) = [line for line in text.splitlines() if "edge" in line]
    assert "gateway" in text
    first = text.splitlines()[0]
    assert first.index("public site") < first.index("private site private")
    assert "Linked" in text
    assert "embedded · 4 tunnels · for 3 min" in text
    assert line.count("│") >= 3


@pytest.mark.parametrize("columns", [60, 80])
def test_narrow_terminal_shows_them_below_each_other_and_cuts_nothing(columns: int) -> None:
    text = drawn(columns, UP)
    assert max(len(line) for line in text.splitlines()) <= columns
    for name in (*PUBLIC_PROCESSES, *PRIVATE_PROCESSES):
        assert name.removeprefix("private-") in text
    assert re.search(r"║ Linked\s+embedded · 4 tunnels", text)
    assert text.index("edge") < text.index("Linked") < text.index("gateway")


def test_link_that_is_down_looks_so() -> None:
    assert "✗" in drawn(140, DOWN)
    assert "Not linked" in drawn(60, DOWN)


def test_both_sites_are_drawn_with_what_is_wrong(network: Network) -> None:
    network.settle()
    running(network, *STOP_ORDER)
    write_state(network.home, "JOINED")
    network.answers["WatchNetwork"] = one_site(linked=False, why="The gateway's certificate is refused.")
    result = network.run("status", is_local=True)
    assert result.exit_code == 1
    assert "private site private" in result.stdout
    assert "Site private: The gateway's certificate is refused." in result.stdout
    assert "No supervisor runs" in result.stdout
    parsed = json.loads(network.run("status", "--json", is_local=True).stdout)
    assert parsed["links"][0]["linked"] is False
    assert {entry["name"]: entry["site"] for entry in parsed["processes"]} == {
        **dict.fromkeys(PUBLIC_PROCESSES, "public"),
        **dict.fromkeys(PRIVATE_PROCESSES, "private"),
        "supervisor": None,
    }


def test_link_is_told_from_the_private_sites_files_while_the_public_one_is_down(network: Network) -> None:
    network.settle()
    running(network, *(name for name in STOP_ORDER if name != "provisioner"))
    error = {"reason": "UNREACHABLE", "message": "127.0.0.1:8443 does not answer.", "mend": "Start it."}
    write_state(network.home, "JOINED", error=error)
    result = network.run("status", is_local=True)
    assert not network.asked
    assert "127.0.0.1:8443 does not answer. Start it." in result.stdout
    assert re.search(r"provisioner\s+not running", result.stdout)


def test_public_site_alone_shows_those_elsewhere(network: Network) -> None:
    write_choice(network.home, SiteChoice(Sites.PUBLIC, "redoma.example.com:8443"))
    network.settle()
    running(network, *PUBLIC_PROCESSES)
    network.answers["WatchNetwork"] = one_site("hospital-a")
    result = network.run("status", is_local=True)
    assert "private site hospital-a" in result.stdout
    assert "on another machine" in result.stdout
    assert "gateway" not in result.stdout
    network.answers["WatchNetwork"] = one_site("hospital-a").FromString(b"")
    assert "redoma van grant" in network.run("status", is_local=True).stdout


def test_private_site_alone_is_ready_when_it_is_linked(network: Network) -> None:
    write_choice(network.home, SiteChoice(Sites.PRIVATE))
    running(network, *PRIVATE_PROCESSES)
    write_state(network.home, "LINKED", "hospital-a", link_address="redoma.example.com:8443")
    result = network.run("status", is_local=True)
    assert result.exit_code == 0, result.output
    assert "redoma.example.com:8443" in result.stdout
    assert "edge" not in result.stdout.lower().replace("redoma", "")
    write_state(network.home, "JOINED", "hospital-a")
    assert network.run("status", is_local=True).exit_code == 1


def test_process_that_is_gone_is_not_running_whatever_was_written(network: Network) -> None:
    Journal(state_file(network.home)).record("edge", State.READY, ProcessIdentity(2**22, 1), 0)
    result = network.run("status", is_local=True)
    assert result.exit_code == 1
    assert re.search(r"edge\s+not running", result.stdout)


def test_health_tells_the_nearest_cause_and_knows_each_state() -> None:
    view = one_site(linked=False, why="Every tunnel is closed.")
    (site,) = private_sites(view)
    assert health_of(site, links_of(view, site)).sentence == "Every tunnel is closed."
    assert health_of(site, []).sentence == "No call gets through."
    for state, word in ((Site.STATE_REVOKED, "Revoked"), (Site.STATE_INVITED, "Invited")):
        site.state = state
        assert health_of(site, []).word == word
