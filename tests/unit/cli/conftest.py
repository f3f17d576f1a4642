"""Fixtures of the CLI's tests."""

from tests.unit.cli.edge_site import authority, edge, home

__all__ = ["authority", "edge", "home"]
