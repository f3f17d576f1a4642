"""Whatever is published, subscribed, refused and cut off, an Envoy ends up with what it should, and uses nothing it
lacks on the way."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from redoma_provisioner.edge.session import MAX_UNANSWERED
from redoma_provisioner.edge.snapshot import CLUSTER, LISTENER, SECRET, TYPES, Resources
from tests.unit.provisioner.edge.conversation import Conversation, resources_of, served_of

NAMES = st.sampled_from(("a", "b", "c", "d"))
LISTENERS = st.sampled_from(("x", "y"))
REVISIONS = st.integers(0, 2)
COUNTS = st.integers(1, 4)
RESOURCES = st.builds(
    resources_of,
    st.dictionaries(NAMES, REVISIONS),
    st.dictionaries(NAMES, REVISIONS),
    st.dictionaries(LISTENERS, REVISIONS),
    st.dictionaries(LISTENERS, st.lists(NAMES)),
)


class Streams(RuleBasedStateMachine):
    """What may happen between a control plane and an Envoy."""

    incremental = False

    @initialize(first=RESOURCES)
    def connect(self, first: Resources) -> None:
        """Connects an Envoy, and lets it have all there is."""
        self.talk = Conversation(self.incremental, served_of(first))
        self.talk.settle()
        self.refused = False
        self.again = 0

    @rule(new=RESOURCES)
    def publish(self, new: Resources) -> None:
        """Serves other resources."""
        self.talk.served = served_of(new)

    @rule(count=COUNTS)
    def hear(self, count: int) -> None:
        """Lets some requests arrive."""
        self.talk.hear(count)

    @rule(count=COUNTS)
    def say(self, count: int) -> None:
        """Sends some responses."""
        self.talk.say(count)

    @rule(count=COUNTS)
    def arrive(self, count: int) -> None:
        """Lets some responses arrive."""
        self.talk.arrive(count)

    @rule(type_url=st.sampled_from(TYPES))
    def arrive_and_refuse(self, type_url: str) -> None:
        """Lets all responses arrive, of which the Envoy refuses those of a type."""
        self.refused = True
        self.talk.arrive(refused=type_url)

    @rule()
    def cut(self) -> None:
        """Breaks the stream. In the state of the world an Envoy does not say what it has when it comes back."""
        self.refused = self.refused or not self.incremental
        self.talk.cut()

    @rule()
    def restart(self) -> None:
        """Starts the Envoy anew."""
        self.talk.restart()

    @rule()
    def settle(self) -> None:
        """Lets all arrive."""
        self.talk.settle()

    @rule(new=RESOURCES)
    def agree(self, new: Resources) -> None:
        """After all, the Envoy has exactly what it should."""
        self.talk.settle()
        # What was refused comes again as soon as anything of its type changes.
        self.again += 1
        changed = {
            type_url: {name: {**config, "again": self.again} for name, config in named.items()}
            for type_url, named in new.items()
        }
        self.talk.served = served_of(changed)
        self.talk.settle()
        snapshot = self.talk.served.snapshot
        wanted = {type_url: dict(versions) for type_url, versions in snapshot.resource_versions.items()}
        if not wanted[CLUSTER] and not wanted[LISTENER]:
            wanted[SECRET] = {}
        assert self.talk.envoy.held == wanted
        assert not self.talk.envoy.warming
        assert self.talk.say() == []
        for type_url, subscription in self.talk.session.subscriptions.items():
            assert subscription.accepted_version == snapshot.version or not wanted[type_url]
            assert not subscription.unanswered
        self.refused = False

    @invariant()
    def routes_lead_somewhere(self) -> None:
        """No route names a cluster that the Envoy does not have."""
        if not self.refused:
            assert self.talk.envoy.routed() <= self.talk.envoy.held[CLUSTER].keys()

    @invariant()
    def little_is_unanswered(self) -> None:
        """Nothing piles up for an Envoy that does not answer."""
        for subscription in self.talk.session.subscriptions.values():
            assert len(subscription.unanswered) <= MAX_UNANSWERED


class IncrementalStreams(Streams):
    """The same, told what changes."""

    incremental = True


class TestStateOfTheWorld(Streams.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class TestIncremental(IncrementalStreams.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
