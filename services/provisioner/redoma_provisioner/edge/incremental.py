"""The protocol of discovery in which a response has what changed."""

from redoma_kit.errors import InvalidField
from redoma_provisioner.edge.encoding import Encoded
from redoma_provisioner.edge.served import Served
from redoma_provisioner.edge.session import COMPLETE, REMOVED_LATE, Batch, Request, Session
from redoma_provisioner.edge.snapshot import CLUSTER, TYPES
from redoma_provisioner.edge.subscription import MAX_NAMES, WILDCARD, Subscription

MAX_RESPONSE_BYTES = 2 << 20


class Incremental(Session):
    """One stream of it."""

    def receive(self, request: Request) -> None:
        """Takes a request in; names count whatever it answers."""
        type_url = request.type_url
        if type_url not in TYPES:
            return
        subscription = self.subscriptions.get(type_url)
        if subscription is None:
            self.subscriptions[type_url] = self._begin(request)
            self._began_bare = self._began_bare or (type_url == CLUSTER and not request.held)
            return
        if request.nonce.isdecimal():
            subscription.note_answer(int(request.nonce), request.refusal, self._now())
        if not request.subscribe and not request.unsubscribe:
            return
        asked, dropped = {*request.subscribe}, {*request.unsubscribe}
        wildcard = WILDCARD in asked or (subscription.wildcard and WILDCARD not in dropped)
        subscription.subscribe((subscription.names | asked) - dropped, wildcard)
        for name in asked & subscription.held.keys():
            # Who asks again has lost it.
            del subscription.held[name]

    def _begin(self, request: Request) -> Subscription:
        subscription = Subscription(request.type_url)
        names = {*request.subscribe} - {*request.unsubscribe}
        wildcard = WILDCARD in names or (not request.subscribe and request.type_url in COMPLETE)
        subscription.subscribe(names, wildcard)
        held = request.held or {}
        if len(held) > MAX_NAMES:
            raise InvalidField("initial_resource_versions", f"may be {MAX_NAMES} names at most.")
        for name, version in held.items():
            if wildcard or name in names:
                subscription.held[name] = Encoded(version, b"")
        subscription.begun = bool(subscription.held)
        return subscription

    def _changes(self, subscription: Subscription, served: Served) -> Batch | None:
        difference = subscription.difference(served)
        removed = difference.missing
        if subscription.type_url not in REMOVED_LATE:
            removed += difference.gone
        unheard = subscription.wildcard and not subscription.begun
        if not difference.changed and not removed and not unheard:
            return None
        resources: dict[str, Encoded] = {}
        size = 0
        for name, encoded in difference.changed.items():
            size += len(encoded.content)
            if resources and size > MAX_RESPONSE_BYTES:
                break
            resources[name] = encoded
        return Batch(resources, frozenset(resources), removed)

    def _removals(self, subscription: Subscription, served: Served) -> Batch | None:
        gone = subscription.difference(served).gone
        return Batch({}, frozenset(), gone) if gone else None

    def _version(self, batch: Batch, served: Served) -> str:
        return served.snapshot.version
