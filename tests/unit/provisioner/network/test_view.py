"""What the public site shows of a thing that two sites see is the word of the one that knows."""

from dataclasses import replace

import pytest

from redoma_provisioner.network.condition import Condition
from redoma_provisioner.network.connector import Connector
from redoma_provisioner.network.driver import DriverKind, ObservedListener, ObservedNetwork
from redoma_provisioner.network.driving import Observation
from redoma_provisioner.network.kept import KeptNetwork, desired_network
from redoma_provisioner.network.standings import Standings
from redoma_provisioner.network.view import NetworkView, Sources, make_view
from tests.fakes.memory_network import START, a_report, a_site

KEY = "hospital-a.model-0"
NOT_EXPOSED = Condition("Matched", False, "NotExposed", "hospital-a exposes no hospital-a.model-0.")


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (Condition("Matched", None, "NotKnownHere", "The public site knows."), "NotExposed"),
        (Condition("Matched", True, "Matched"), "Matched"),
    ],
)
def test_a_connector_is_matched_by_its_listeners_word_where_its_site_cant_know(told: Condition, shown: str) -> None:
    kept = KeptNetwork((a_site("hospital-a"),), (Connector("hospital-a", KEY, "model", "unix:model.sock"),))
    standings = Standings()
    report = replace(
        a_report("hospital-a"), connector_conditions={KEY: (Condition("Configured", True, "Served"), told)}
    )
    standings.heard("hospital-a", report, START)
    seen = ObservedNetwork(listeners={KEY: ObservedListener((NOT_EXPOSED,))})
    observation = Observation(seen, desired_network(kept, DriverKind.FAKE))
    view = make_view(Sources(kept, observation, DriverKind.FAKE, standings, 0, START), NetworkView())
    configured, matched = view.connectors[KEY].conditions
    assert configured.reason == "Served"
    assert matched.reason == shown
