"""Whatever is published, subscribed, refused and cut off, an Envoy ends up with what it should, and uses nothing it
lacks on the way."""

from collections import deque
from datetime import UTC, datetime

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from redoma_provisioner.edge.encoding import Encoded
from redoma_provisioner.edge.incremental import Incremental
from redoma_provisioner.edge.served import Served
from redoma_provisioner.edge.session import Response, Session
from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Config, Snapshot
from redoma_provisioner.edge.state_of_the_world import StateOfTheWorld
from tests.unit.provisioner.edge.model_envoy import ModelEnvoy

NAMES = ("a", "b", "c", "d")
REVISIONS = st.integers(0, 2)
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def clock() -> datetime:
    """Gives the time."""
    return NOW


def served(
    clusters: dict[str, int], endpoints: dict[str, int], listeners: dict[str, int], routes: dict[str, list[str]]
) -> Served:
    """Makes a small snapshot whose parts name each other; numbers tell versions of a thing apart."""
    resources: dict[str, dict[str, Config]] = {
        SECRET: {"identity": {"needs": {}}},
        CLUSTER: {
            name: {
                "type": "EDS",
                "revision": revision,
                "needs": {ENDPOINTS: [name], SECRET: ["identity"]},
            }
            for name, revision in clusters.items()
        },
        ENDPOINTS: {name: {"revision": endpoints.get(name, 0), "needs": {}} for name in clusters},
        LISTENER: {
            name: {"revision": revision, "needs": {ROUTES: [name], SECRET: ["identity"]}}
            for name, revision in listeners.items()
        },
        ROUTES: {
            name: {"needs": {CLUSTER: sorted(set(routes.get(name, [])) & clusters.keys())}} for name in listeners
        },
    }
    snapshot = Snapshot(resources)
    encoded = {
        type_url: {name: Encoded(version, b"x" * 10) for name, version in versions.items()}
        for type_url, versions in snapshot.resource_versions.items()
    }
    return Served(snapshot, encoded)


SNAPSHOTS = st.builds(
    served,
    st.dictionaries(st.sampled_from(NAMES), REVISIONS),
    st.dictionaries(st.sampled_from(NAMES), REVISIONS),
    st.dictionaries(st.sampled_from(("x", "y")), REVISIONS, min_size=1),
    st.dictionaries(st.sampled_from(("x", "y")), st.lists(st.sampled_from(NAMES))),
)


class Conversation(RuleBasedStateMachine):
    """A control plane and an Envoy, with what is on its way between them."""

    incremental = False

    def __init__(self) -> None:
        super().__init__()
        self.envoy = ModelEnvoy(self.incremental)
        self.session: Session = self.new_session()
        self.served = served({}, {}, {}, {})
        # With the snapshot that a response was made of, which says what is in it.
        self.coming: deque[tuple[Response, Snapshot]] = deque()
        self.described: dict[tuple[str, str, str], Snapshot] = {}
        self.refused = False

    def new_session(self) -> Session:
        """Begins a session of the protocol."""
        return Incremental(clock) if self.incremental else StateOfTheWorld(clock)

    @initialize(first=SNAPSHOTS)
    def connect(self, first: Served) -> None:
        """Connects the Envoy, and lets it have a first snapshot."""
        self.served = first
        self.envoy.connect()
        self.settle()

    @rule(new=SNAPSHOTS)
    def publish(self, new: Served) -> None:
        """Serves another snapshot."""
        self.served = new

    @rule(new=SNAPSHOTS)
    def publish_and_send(self, new: Served) -> None:
        """Serves another snapshot, and sends what can be sent of it at once."""
        self.served = new
        self.say(100)

    def settle(self) -> None:
        """Lets all that is on its way arrive."""
        for _ in range(200):
            self.hear(100)
            self.say(100)
            if not self.coming and not self.envoy.outbox:
                return
            self.arrive(100)
        raise AssertionError("they never come to an end")

    @rule(new=SNAPSHOTS)
    def agree(self, new: Served) -> None:
        """After all, the Envoy has exactly what it should."""
        self.settle()
        # What was refused comes again as soon as anything of its type changes.
        resources = {
            type_url: {name: {**config, "again": new.snapshot.version} for name, config in named.items()}
            for type_url, named in new.snapshot.resources.items()
        }
        snapshot = Snapshot(resources)
        encoded = {
            type_url: {name: Encoded(version, b"") for name, version in versions.items()}
            for type_url, versions in snapshot.resource_versions.items()
        }
        self.served = Served(snapshot, encoded)
        self.settle()
        wanted = {type_url: dict(versions) for type_url, versions in snapshot.resource_versions.items()}
        if not wanted[CLUSTER] and not wanted[LISTENER]:
            wanted[SECRET] = {}
        assert self.envoy.held == wanted
        assert not self.envoy.warming
        assert self.session.next_response(self.served) is None
        for subscription in self.session.subscriptions.values():
            assert subscription.accepted_version == snapshot.version
            assert not subscription.unanswered
        self.refused = False

    @invariant()
    def routes_lead_somewhere(self) -> None:
        """No route names a cluster that the Envoy does not have."""
        if not self.refused:
            assert self.envoy.routed() <= self.envoy.held[CLUSTER].keys()

    @invariant()
    def little_is_unanswered(self) -> None:
        """Nothing piles up for an Envoy that does not answer."""
        for subscription in self.session.subscriptions.values():
            assert len(subscription.unanswered) <= 8


class IncrementalConversation(Conversation):
    """The same, told what changes."""

    incremental = True


class TestStateOfTheWorld(Conversation.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class TestIncremental(IncrementalConversation.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
