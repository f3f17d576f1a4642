"""Small deployments that all tests of the kit share; each test has a world of its own in them."""

from collections.abc import Iterator

import pytest

from tests.unit.cli.conformance.double_site import DoubleSite, careless, running_double


@pytest.fixture(scope="session")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoubleSite]:
    """A small deployment behind the edge as it is."""
    with running_double(tmp_path_factory.mktemp("double")) as site:
        yield site


@pytest.fixture(scope="session")
def careless_double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoubleSite]:
    """A small deployment behind an edge that lets identities in and drops deadlines."""
    with running_double(tmp_path_factory.mktemp("careless"), careless) as site:
        yield site
