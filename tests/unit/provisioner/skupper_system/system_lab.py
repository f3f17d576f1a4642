"""The behaviour suite's lab of Skupper's system sites: a tree of files for each machine, and the stand-in CLI."""

import asyncio
import io
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import yaml

from redoma_provisioner.network.driver import AdmittedSite, DesiredLink, DriverRefused
from redoma_provisioner.network.drivers.skupper.link_resources import AccessToken, LinkCredentials, parse
from redoma_provisioner.network.drivers.skupper.probe import Trust
from redoma_provisioner.network.drivers.skupper.resource import is_ours
from redoma_provisioner.network.drivers.skupper_system.driver import SkupperSystemDriver
from redoma_provisioner.network.drivers.skupper_system.process import Outcome
from redoma_provisioner.network.drivers.skupper_system.router import Patience
from redoma_provisioner.network.drivers.skupper_system.wiring import system_driver
from redoma_provisioner.settings import DriverSettings
from tests.fakes.driver_suite import Ability
from tests.fakes.skupper_cli import WORLD, Control, Controller, Tree, World, main, mapping, sequence, text

ABILITIES = (
    Ability.CUT,
    Ability.RESTART,
    Ability.FOREIGN,
    Ability.REFUSE,
    Ability.TAKE_AWAY,
    Ability.MATCH,
)
NAMESPACE = "redoma"
PUBLIC = "public"
HOST = "203.0.113.7"


@dataclass(slots=True)
class WorldProbe:
    """Connects to what the routers of a world would listen on."""

    world: World

    async def opens(self, host: str, port: int) -> bool:
        """See Probe."""
        return self.world.listens(port)

    async def trusts(self, host: str, port: int, credentials: LinkCredentials) -> Trust:
        """See Probe."""
        for tree in self.world.trees():
            for access in tree.runtime("RouterAccess") if tree.is_up() else ():
                spec = mapping(access, "spec")
                if str(port) in {text(one.get("port")) for one in sequence(spec.get("roles"))}:
                    known = tree.certificate(text(spec.get("issuer"))) == credentials.pem("ca.crt")
                    return Trust.TRUSTED if known else Trust.UNTRUSTED
        return Trust.UNREACHABLE


@dataclass(slots=True)
class OneRedeemer:
    """A grant server that redeems each token once, for what it was given."""

    links: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def redeem(self, token: AccessToken, subject: str) -> LinkCredentials:
        """See Redeemer."""
        self.asked.append(subject)
        if token.code not in self.links:
            raise DriverRefused("The token for Skupper's link is used up or has expired.")
        found = parse(self.links.pop(token.code))
        assert isinstance(found, LinkCredentials)
        return found


@dataclass(slots=True)
class SystemLab:
    """Machines side by side under one directory, each the data home of one site."""

    root: Path
    redeemer: OneRedeemer = field(default_factory=OneRedeemer)
    settle_s = 10.0
    commands: list[str] = field(default_factory=list)
    clock_s: float = 1_000_000.0
    _ports: int = 31_000

    @property
    def world(self) -> World:
        """What the stand-in sees."""
        return World(self.root)

    @property
    def control(self) -> Control:
        """What happens in it."""
        return self.world.control

    def tree(self, site: str) -> Tree:
        """Gives the namespace of a site."""
        return Tree(self.root / site, NAMESPACE, self.control)

    def input(self, site: str) -> Path:
        """Gives where what is wanted of a site lies."""
        return self.tree(site).root / "input" / "resources"

    def driver(self, site: str, *, platform: str = "podman", pick_up_s: float = 0.02) -> SkupperSystemDriver:
        """Makes a driver of a site."""
        # Podman and Docker may take things up by themselves; how long to wait for that is the caller's.
        settings = DriverSettings(
            kind="skupper-system", namespace=NAMESPACE, platform=platform, data_home=self.root / site / "skupper"
        )
        return system_driver(
            settings,
            join_address=f"{HOST}:8443" if site == PUBLIC else None,
            environ={**os.environ, WORLD: str(self.root)},
            clock=lambda: self.clock_s,
            probe=WorldProbe(self.world),
            redeemer=self.redeemer,
            patience=Patience(pick_up_s=pick_up_s, up_s=1.0),
            run=self._run,
            poll_s=0.05,
        )

    async def _run(self, arguments: Sequence[str], environment: Mapping[str, str], *, timeout_s: float) -> Outcome:
        """Runs the stand-in in this process, which is quicker than starting it."""
        out, err = io.StringIO(), io.StringIO()
        self.commands.append(" ".join(arguments[1:3]))
        code = await asyncio.to_thread(main, arguments[1:], environment, out, err)
        return Outcome(code, out.getvalue(), err.getvalue())

    async def public(self) -> SkupperSystemDriver:
        """See DriverLab."""
        return self.driver(PUBLIC)

    async def private(self, site: str) -> SkupperSystemDriver:
        """See DriverLab."""
        return self.driver(site)

    async def admitted(self, site: str) -> AdmittedSite:
        """See DriverLab."""
        return AdmittedSite(site)

    async def link(self, site: str, resources: str) -> DesiredLink:
        """See DriverLab."""
        return DesiredLink(PUBLIC, resources=resources)

    async def target(self, site: str, routing_key: str) -> str:
        """See DriverLab."""
        self._ports += 1
        return f"127.0.0.1:{self._ports}"

    async def inventory(self) -> Mapping[str, str]:
        """See DriverLab. A site's own Site is what the rest stands on and stays; half-written files would show."""
        found = dict[str, str]()
        for path in sorted(self.root.glob("*/skupper/namespaces/*/input/resources/.*")) + self._files():
            found[str(path.relative_to(self.root))] = str(path.stat().st_mtime_ns)
        return found

    def _files(self) -> list[Path]:
        paths = sorted(self.root.glob("*/skupper/namespaces/*/input/resources/*.yaml"))
        return [path for path in paths if not path.name.startswith("Site-") and is_ours(_first(path))]

    async def reaches(self, routing_key: str) -> bool:
        """See DriverLab."""
        raise NotImplementedError

    async def cut(self, site: str) -> None:
        """See DriverLab."""
        self.control.put(cut=[site])

    async def restore(self, site: str) -> None:
        """See DriverLab."""
        self.control.put(cut=[])

    async def restart(self) -> None:
        """See DriverLab."""
        for tree in self.world.trees():
            main(
                ["system", "reload", "-n", tree.namespace, "-p", "podman"],
                {"XDG_DATA_HOME": str(tree.home), WORLD: str(self.root)},
                io.StringIO(),
                io.StringIO(),
            )

    async def put_foreign(self) -> None:
        """See DriverLab."""
        for site in (PUBLIC, "hospital-a"):
            self.input(site).mkdir(parents=True)
            for one in foreign_resources():
                path = self.input(site) / f"{one['kind']}-theirs.yaml"
                path.write_text(yaml.safe_dump(one))

    async def foreign(self) -> Mapping[str, str]:
        """See DriverLab."""
        paths = sorted(self.root.glob("*/skupper/namespaces/*/input/resources/*-theirs.yaml"))
        return {str(path): sha256(path.read_bytes()).hexdigest() for path in paths}

    async def refuse(self, words: str, routing_key: str = "") -> None:
        """See DriverLab."""
        self.control.put(refuses={PUBLIC: words} if words else {})

    async def take_away(self) -> None:
        """See DriverLab."""
        self.control.put(replay={"system reload": "system_stop_no_engine", "system start": "system_stop_no_engine"})

    async def bring_back(self) -> None:
        """See DriverLab."""
        self.control.put(replay={})


@asynccontextmanager
async def system_controller(lab: SystemLab, site: str, *, automatic: bool) -> AsyncIterator[None]:
    """Runs a system controller at a site; an automatic one takes up what is written, without a restart."""
    controller = Controller(lab.world, lab.root / site, "podman", NAMESPACE)

    async def follow() -> None:
        seen: list[str] = []
        while automatic:
            # A file that was being written or removed is looked at the next time round.
            with suppress(FileNotFoundError):
                now = [f"{path} {path.stat().st_mtime_ns}" for path in sorted(lab.input(site).glob("*.yaml"))]
                if now and now != seen:
                    controller.take_up()
                    seen = now
            await asyncio.sleep(0.02)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        controller.stop()


def foreign_resources() -> list[dict[str, object]]:
    """Gives a resource of each kind by another's hand."""
    ca = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"

    def made(kind: str, spec: Mapping[str, object]) -> dict[str, object]:
        metadata = {"name": "theirs", "namespace": NAMESPACE}
        return {"apiVersion": "skupper.io/v2alpha1", "kind": kind, "metadata": metadata, "spec": dict(spec)}

    secret = {**made("Secret", {}), "apiVersion": "v1", "data": {"ca.crt": ca, "tls.crt": ca, "tls.key": ca}}
    return [
        made("Site", {}),
        made("Listener", {"routingKey": "theirs", "host": "127.0.0.1", "port": 10_000}),
        made("Connector", {"routingKey": "theirs", "host": "127.0.0.1", "port": 9}),
        made("RouterAccess", {"roles": [{"name": "edge", "port": 45_671}]}),
        made("Link", {"endpoints": [{"name": "edge", "host": "192.0.2.1", "port": "1"}], "tlsCredentials": "theirs"}),
        secret,
    ]


def _first(path: Path) -> Mapping[str, object]:
    found: object = next(iter(yaml.safe_load_all(path.read_text())), None)
    return found if isinstance(found, dict) else {}
