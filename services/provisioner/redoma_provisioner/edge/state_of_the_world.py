"""The protocol of discovery in which every response has all that was asked for of a type."""

from collections.abc import Callable, Mapping
from datetime import datetime

from redoma_provisioner.edge.encoding import Encoded
from redoma_provisioner.edge.served import Served
from redoma_provisioner.edge.session import COMPLETE, REMOVED_LATE, Batch, Request, Response, Session
from redoma_provisioner.edge.snapshot import CLUSTER, TYPES, digest
from redoma_provisioner.edge.subscription import WILDCARD, Subscription


class StateOfTheWorld(Session):
    """One stream of it. Of names that there is nothing of it can't tell."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(now)
        self._claimed: dict[str, str] = {}
        self._latest: dict[str, int] = {}
        self._named: set[str] = set()

    def receive(self, request: Request) -> None:
        """Takes a request in; what answers another response than the latest says nothing."""
        type_url = request.type_url
        if type_url not in TYPES:
            return
        if request.names:
            self._named.add(type_url)
        wildcard = WILDCARD in request.names or (type_url in COMPLETE and type_url not in self._named)
        subscription = self.subscriptions.get(type_url)
        if subscription is None:
            subscription = Subscription(type_url)
            subscription.subscribe(request.names, wildcard)
            self.subscriptions[type_url] = subscription
            self._claimed[type_url] = request.version
            self._began_bare = self._began_bare or (type_url == CLUSTER and not request.version)
            return
        latest = self._latest.get(type_url)
        if request.nonce and latest is not None:
            if request.nonce != str(latest):
                return
            subscription.forget_before(latest)
            subscription.note_answer(latest, request.refusal, self._now())
        subscription.subscribe(request.names, wildcard)

    def _changes(self, subscription: Subscription, served: Served) -> Batch | None:
        self._believe(subscription, served)
        difference = subscription.difference(served)
        wanted = subscription.wanted(served)
        late = subscription.type_url in REMOVED_LATE
        unheard = subscription.wildcard and not subscription.begun
        if not difference.changed and not unheard and (late or not difference.gone):
            return None
        if not late:
            return Batch(wanted, frozenset(difference.changed), difference.gone)
        kept = {name: subscription.held[name] for name in difference.gone}
        return Batch({**kept, **wanted}, frozenset(difference.changed))

    def _removals(self, subscription: Subscription, served: Served) -> Batch | None:
        gone = subscription.difference(served).gone
        if not gone or not subscription.wildcard:
            return None
        return Batch(subscription.wanted(served), frozenset(), gone)

    def _version(self, batch: Batch, served: Served) -> str:
        return _version_of(batch.resources)

    def _believe(self, subscription: Subscription, served: Served) -> None:
        """Takes an Envoy that comes back at its word that it has what it would be sent."""
        claimed = self._claimed.pop(subscription.type_url, "")
        wanted = subscription.wanted(served)
        if claimed and claimed == _version_of(wanted):
            subscription.held.update(wanted)
            subscription.begun = True

    def _respond(self, subscription: Subscription, batch: Batch, served: Served) -> Response:
        response = super()._respond(subscription, batch, served)
        self._latest[subscription.type_url] = self._nonce
        return response


def _version_of(resources: Mapping[str, Encoded]) -> str:
    return digest({name: encoded.version for name, encoded in resources.items()})
