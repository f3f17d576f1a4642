"""What is sent to one Envoy on one stream, and when. It does no input or output, and never waits.

Nothing is sent that names what the Envoy does not have, and nothing is taken away that it still names: what is new
goes out in the order of TYPES, what is gone the other way round, once all the rest was accepted. An Envoy accepts
clusters when they are ready for calls, and routes wait for that. Endpoints, listeners and secrets never wait for an
answer, so that a revocation is as quick as Envoy is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from redoma_provisioner.edge.encoding import Encoded
from redoma_provisioner.edge.served import Served
from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, TYPES
from redoma_provisioner.edge.subscription import Subscription

# Those of which an Envoy has all there are.
COMPLETE = frozenset({CLUSTER, LISTENER})
# Nothing has a listener's name but the endpoints, which are sent before; so they go at once.
REMOVED_LATE = (ROUTES, CLUSTER, ENDPOINTS, SECRET)
MAX_UNANSWERED = 8


@dataclass(frozen=True, slots=True)
class Request:
    """What an Envoy sends.

    Attributes:
        type_url: The type of resource it is about.
        nonce: The number of the response that it answers; empty answers none.
        refusal: Why it refuses that response, in its own words; empty is that it accepts it.
        names: State of the world: all the names that it wants.
        version: State of the world: the version of the type that it accepted last.
        subscribe: Incremental: names that it wants besides the former ones.
        unsubscribe: Incremental: names that it wants no more.
        held: Incremental, first on a stream: the versions of what it has, by name.
    """

    type_url: str
    nonce: str = ""
    refusal: str = ""
    names: tuple[str, ...] = ()
    version: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    held: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What an Envoy is sent. `removed` is for the incremental protocol: names that there is nothing of."""

    type_url: str
    version: str
    nonce: str
    resources: Mapping[str, Encoded]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be sent of a type next. `changed` are the names of it that the Envoy does not have so."""

    resources: Mapping[str, Encoded]
    changed: frozenset[str]
    removed: tuple[str, ...] = ()


class Session(ABC):
    """One stream. Say `receive` for each request, and send what `next_response` gives until it gives None."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self._now = now
        self._nonce = 0
        # Whether the Envoy had no cluster when the stream began: then no route of its names one.
        self._began_bare = False

    @abstractmethod
    def receive(self, request: Request) -> None:
        """Takes a request in; one for a type that is not served is ignored.

        Raises:
            InvalidField: It names too much.
        """

    @abstractmethod
    def _changes(self, subscription: Subscription, served: Served) -> Batch | None:
        """Gives what is new or other, None if nothing."""

    @abstractmethod
    def _removals(self, subscription: Subscription, served: Served) -> Batch | None:
        """Gives what is gone, None if nothing."""

    @abstractmethod
    def _version(self, batch: Batch, served: Served) -> str:
        """Gives the version that a response is sent with."""

    def next_response(self, served: Served) -> Response | None:
        """Gives the next response, None until another request or snapshot comes."""
        for find, types, may in (
            (self._changes, TYPES, self._may_change),
            (self._removals, REMOVED_LATE, self._may_remove),
        ):
            for type_url in types:
                subscription = self.subscriptions.get(type_url)
                if subscription is None or len(subscription.unanswered) >= MAX_UNANSWERED:
                    continue
                if (batch := find(subscription, served)) is not None and may(subscription, batch, served):
                    return self._respond(subscription, batch, served)
        for type_url, subscription in self.subscriptions.items():
            if self._is_settled(type_url, served) and self._removals(subscription, served) is None:
                subscription.note_current(served)
        return None

    def _may_change(self, subscription: Subscription, batch: Batch, served: Served) -> bool:
        if subscription.type_url not in (LISTENER, ROUTES):
            return True
        if not self._is_settled(CLUSTER, served):
            return False
        if subscription.type_url == LISTENER:
            return True
        # Routes that it has none of yet can do no harm.
        in_use = batch.changed & subscription.held.keys()
        return self._is_settled(LISTENER, served) and (not in_use or self._are_clusters_ready(served))

    def _are_clusters_ready(self, served: Served) -> bool:
        """Says whether the clusters were accepted, or can't be: one that is gone may wait for endpoints for ever."""
        clusters = self.subscriptions.get(CLUSTER)
        if clusters is None:
            return True
        awaited = {name for sent in clusters.unanswered for name in sent.changed}
        is_any_gone = not awaited <= clusters.wanted(served).keys()
        return not clusters.refusal and (not clusters.unanswered or is_any_gone)

    def _may_remove(self, subscription: Subscription, batch: Batch, served: Served) -> bool:
        # Who comes back asks for one type after the other; what it has of the last ones may name what is gone. Who is
        # new has none of them, and does not come to asking while a cluster waits for endpoints that are gone.
        asked = LISTENER in self.subscriptions and (ROUTES in self.subscriptions or not served.snapshot.of(ROUTES))
        is_bare = self._began_bare and LISTENER not in self.subscriptions
        if not (asked or is_bare) or not all(self._is_settled(type_url, served) for type_url in TYPES):
            return False
        before = (LISTENER, ROUTES, CLUSTER) if subscription.type_url in (ENDPOINTS, SECRET) else (LISTENER, ROUTES)
        return not any(
            other.unanswered or other.refusal
            for type_url in before
            if (other := self.subscriptions.get(type_url)) is not None
        )

    def _is_settled(self, type_url: str, served: Served) -> bool:
        """Says whether all that is new of a type was sent."""
        subscription = self.subscriptions.get(type_url)
        return subscription is None or self._changes(subscription, served) is None

    def _respond(self, subscription: Subscription, batch: Batch, served: Served) -> Response:
        self._nonce += 1
        subscription.note_sent(self._nonce, served, batch.resources, batch.changed, batch.removed)
        endpoints = self.subscriptions.get(ENDPOINTS)
        if subscription.type_url == CLUSTER and endpoints is not None:
            # An Envoy that is sent a cluster uses it when it has its endpoints once more.
            again = {served.snapshot.endpoints_of.get(name) for name in batch.changed}
            endpoints.uncertain.update(name for name in endpoints.held if name in again)
        version = self._version(batch, served)
        return Response(subscription.type_url, version, str(self._nonce), batch.resources, batch.removed)
