"""Proves from outside that a deployment keeps its tenants apart: what `redoma conformance` runs."""
