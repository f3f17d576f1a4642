"""The behaviour suite's lab of the fake driver."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from redoma_provisioner.network.driver import AdmittedSite, DesiredLink, NetworkDriver
from tests.fakes.driver_suite import Ability
from tests.fakes.network_driver import PUBLIC, FakeDriver, FakeNetwork, Made

ABILITIES = tuple(Ability)
STRANGER = "somebody"


@dataclass(slots=True)
class FakeLab:
    """A FakeNetwork in the suite's hands."""

    settle_s = 2.0
    network: FakeNetwork = field(default_factory=FakeNetwork)

    async def public(self) -> NetworkDriver:
        """See DriverLab."""
        return FakeDriver(self.network, PUBLIC)

    async def private(self, site: str) -> NetworkDriver:
        """See DriverLab."""
        return FakeDriver(self.network, site)

    async def admitted(self, site: str) -> AdmittedSite:
        """See DriverLab."""
        return AdmittedSite(site, ("ab" * 32,))

    async def link(self, site: str, resources: str) -> DesiredLink:
        """See DriverLab."""
        return DesiredLink("public", "127.0.0.1:8443", resources)

    async def target(self, site: str, routing_key: str) -> str:
        """See DriverLab."""
        return "unix:model.sock"

    async def inventory(self) -> Mapping[str, str]:
        """See DriverLab."""
        return self._made(by_stranger=False)

    async def reaches(self, routing_key: str) -> bool:
        """See DriverLab."""
        site = routing_key.partition(".")[0]
        return f"listener/{routing_key}" in self.network.end(PUBLIC) and self.network.is_matched(site, routing_key)

    async def cut(self, site: str) -> None:
        """See DriverLab."""
        self.network.cut.add(site)
        self.network.changed()

    async def restore(self, site: str) -> None:
        """See DriverLab."""
        self.network.cut.discard(site)
        self.network.changed()

    async def restart(self) -> None:
        """See DriverLab."""
        self.network.changed()

    async def put_foreign(self) -> None:
        """See DriverLab."""
        for number, (site, kind) in enumerate(
            ((PUBLIC, "listener"), (PUBLIC, "admitted"), ("hospital-a", "connector"))
        ):
            self.network.end(site)[f"{kind}/others"] = Made(STRANGER, "theirs", -number)

    async def foreign(self) -> Mapping[str, str]:
        """See DriverLab."""
        return self._made(by_stranger=True)

    async def refuse(self, words: str, routing_key: str) -> None:
        """See DriverLab."""
        self.network.refusals[f"listener/{routing_key}"] = words

    async def take_away(self) -> None:
        """See DriverLab."""
        self.network.away = True

    async def bring_back(self) -> None:
        """See DriverLab."""
        self.network.away = False

    def _made(self, by_stranger: bool) -> Mapping[str, str]:
        return {
            f"{site}/{name}": str(made.version)
            for site, end in self.network.ends.items()
            for name, made in end.items()
            if (made.owner == STRANGER) is by_stranger
        }
