"""A control plane's session and an Envoy, with what is on its way between them."""

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

from redoma_provisioner.edge.encoding import Encoded
from redoma_provisioner.edge.incremental import Incremental
from redoma_provisioner.edge.served import Served
from redoma_provisioner.edge.session import Response, Session
from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Config, Resources, Snapshot
from redoma_provisioner.edge.state_of_the_world import StateOfTheWorld
from tests.unit.provisioner.edge.model_envoy import ModelEnvoy

NOW = datetime(2026, 11, 20, tzinfo=UTC)
ALL = 1_000


def clock() -> datetime:
    """Gives the time."""
    return NOW


def served_of(resources: Resources, size: int = 10) -> Served:
    """Makes what is served of resources, each `size` bytes long."""
    snapshot = Snapshot(resources)
    encoded = {
        type_url: {name: Encoded(version, b"x" * size) for name, version in versions.items()}
        for type_url, versions in snapshot.resource_versions.items()
    }
    return Served(snapshot, encoded)


def resources_of(
    clusters: Mapping[str, int],
    endpoints: Mapping[str, int],
    listeners: Mapping[str, int],
    routes: Mapping[str, list[str]],
) -> Resources:
    """Makes a few resources that name each other; numbers tell versions of a thing apart.

    Each cluster has endpoints, and each listener routes, of its own name; `routes` says which clusters those name.
    """
    resources: dict[str, dict[str, Config]] = {
        SECRET: {"identity": {"needs": {}}},
        CLUSTER: {
            name: {"type": "EDS", "revision": revision, "needs": {ENDPOINTS: [name], SECRET: ["identity"]}}
            for name, revision in clusters.items()
        },
        ENDPOINTS: {name: {"revision": endpoints.get(name, 0), "needs": {}} for name in clusters},
        LISTENER: {
            name: {"revision": revision, "needs": {ROUTES: [name], SECRET: ["identity"]}}
            for name, revision in listeners.items()
        },
        ROUTES: {name: {"needs": {CLUSTER: sorted(set(routes.get(name, [])) & clusters.keys())}} for name in listeners},
    }
    return resources


class Conversation:
    """One stream after the other between a control plane and an Envoy.

    Attributes:
        served: What the control plane serves.
        coming: Responses on their way, with the snapshot that says what is in them.
    """

    def __init__(self, incremental: bool, first: Served) -> None:
        self.incremental = incremental
        self.served = first
        self.coming: deque[tuple[Response, Snapshot]] = deque()
        self.envoy = ModelEnvoy(incremental)
        self.cut()

    def hear(self, count: int = ALL) -> None:
        """Lets some requests arrive."""
        for _ in range(min(count, len(self.envoy.outbox))):
            self.session.receive(self.envoy.outbox.popleft())

    def say(self, count: int = ALL) -> list[Response]:
        """Sends some responses, those that can be sent now, and gives them."""
        said: list[Response] = []
        while len(said) < count and (response := self.session.next_response(self.served)) is not None:
            said.append(response)
            self.coming.append((response, self.served.snapshot))
        return said

    def arrive(self, count: int = ALL, refused: str = "") -> None:
        """Lets some responses arrive; the Envoy refuses those of the type `refused`."""
        for _ in range(min(count, len(self.coming))):
            response, snapshot = self.coming.popleft()
            self.envoy.take(response, snapshot, refuse=response.type_url == refused)

    def cut(self) -> None:
        """Breaks the stream; the Envoy comes back to a process that knows nothing of it."""
        self.coming.clear()
        self.session: Session = Incremental(clock) if self.incremental else StateOfTheWorld(clock)
        self.envoy.connect()

    def restart(self) -> None:
        """Starts the Envoy anew."""
        self.envoy = ModelEnvoy(self.incremental)
        self.cut()

    def settle(self, refused: str = "") -> None:
        """Lets all that is on its way arrive, and what follows from it."""
        for _ in range(200):
            self.hear()
            self.say()
            if not self.coming and not self.envoy.outbox:
                gone = self.envoy.warming - self.served.snapshot.of(CLUSTER).keys()
                if not gone:
                    return
                self.envoy.give_up(gone)
            self.arrive(refused=refused)
        raise AssertionError("they never come to an end")
