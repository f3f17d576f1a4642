"""Fixtures of the CLI's tests."""

from tests.unit.cli.edge_site import authority, edge, home
from tests.unit.cli.network_site import network
from tests.unit.cli.people_site import people

__all__ = ["authority", "edge", "home", "network", "people"]
