"""The two sites of a network, in namespaces, for the whole session."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.conftest import TestPki
from tests.e2e.network.namespaces import Network, NotAllowed
from tests.e2e.network.processes import until
from tests.e2e.network.sites import ENVOY, WEIGHTS, Administrator, PrivateSite, PublicSite
from tests.e2e.network.streams import until_answered

A, B, GUEST = "hospital-a", "hospital-b", "guest"


@dataclass(slots=True)
class Van:
    """All there is.

    Attributes:
        folder: Of this session, with a short path.
        network: The namespaces.
        pki: The public site's authority.
        public: The public site.
        sites: The private ones, by name.
        administrator: Who makes grants and revokes.
    """

    folder: Path
    network: Network
    pki: TestPki
    public: PublicSite
    sites: dict[str, PrivateSite]
    administrator: Administrator

    @property
    def a(self) -> PrivateSite:
        """The first private site."""
        return self.sites[A]

    @property
    def b(self) -> PrivateSite:
        """The second one."""
        return self.sites[B]

    def admit(self, site: PrivateSite) -> None:
        """Joins a site, starts it, and returns when it is linked."""
        site.join(self.administrator.token(site.name))
        site.start()

        def is_linked() -> bool:
            for process in site.processes.values():
                process.check()
            return self.administrator.is_linked(site.name)

        until(is_linked, f"{site.name} is linked")


def make_or_skip(network: Network) -> None:
    """Makes a network; where that is not allowed the tests are skipped, and with CI=true they fail."""
    try:
        network.up()
    except NotAllowed as error:
        message = f"network namespaces can't be used here: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


@pytest.fixture(scope="session")
def van(pki: TestPki) -> Iterator[Van]:
    """A public site and two private ones, linked."""
    network = Network([A, B, GUEST])
    with ExitStack() as stack:
        stack.callback(network.down)
        make_or_skip(network)
        for file in (ENVOY, WEIGHTS):
            assert file.exists(), f"{file} is missing; `make test` installs it"
        # Paths of Unix sockets are short.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdm-", dir="/tmp")))
        (folder / "p").mkdir()
        public = PublicSite(folder / "p", network, pki)
        sites = {
            name: PrivateSite(name, folder / name[-1], network, public, has_model=name != GUEST)
            for name in network.sites
        }
        stack.callback(public.stop)
        for site in sites.values():
            stack.callback(site.stop)
        public.start()
        channel = stack.enter_context(public.administration())
        van = Van(folder, network, pki, public, sites, Administrator(public, channel))
        with ThreadPoolExecutor() as pool:
            list(pool.map(van.admit, (van.a, van.b)))
        yield van


@pytest.fixture
async def calls(van: Van) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of chat's to the egress, while both sites answer."""
    async with van.public.calls() as channel:
        for site in (van.a, van.b):
            await until_answered(channel, van.pki, site.model_key)
        yield channel
