"""An Envoy as far as discovery sees one: it subscribes to what it needs, and accepts clusters when they are warm."""

from collections import deque

from redoma_provisioner.edge.session import Request, Response
from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET, Snapshot


def needs(snapshot: Snapshot, type_url: str, name: str) -> dict[str, tuple[str, ...]]:
    """Gives what a resource of a small snapshot names, by type."""
    return {key: tuple(names) for key, names in snapshot.of(type_url)[name].get("needs", {}).items()}


class ModelEnvoy:
    """Either protocol's client, in pieces: `outbox` are its requests, `take` gives it a response.

    Attributes:
        held: The versions of what it has, by type and name.
        warming: Clusters that wait for their endpoints.
    """

    def __init__(self, incremental: bool) -> None:
        self.incremental = incremental
        self.held: dict[str, dict[str, str]] = {
            type_url: {} for type_url in (SECRET, CLUSTER, ENDPOINTS, LISTENER, ROUTES)
        }
        self.contents: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
        self.warming: set[str] = set()
        self.outbox: deque[Request] = deque()
        self._names: dict[str, set[str]] = {}
        self._nonces: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._paused: list[Request] = []
        self._begun: set[str] = set()

    def connect(self) -> None:
        """Begins a stream: what it was about to say on the former one is lost, what it has is not."""
        self.outbox.clear()
        self._paused.clear()
        self._nonces.clear()
        begun, self._begun = self._begun, set()
        self._begin(CLUSTER, ())
        for type_url in (SECRET, ENDPOINTS, LISTENER, ROUTES):
            if type_url in begun:
                self._begin(type_url, tuple(sorted(self._names.get(type_url, ()))))

    def take(self, response: Response, described: Snapshot, refuse: bool) -> None:
        """Takes a response in, whose resources `described` describes, or refuses it."""
        type_url = response.type_url
        self._nonces[type_url] = response.nonce
        if refuse:
            self._answer(response, "because")
            return
        before = dict(self.held[type_url])
        after = {name: encoded.version for name, encoded in response.resources.items()}
        if not self.incremental and type_url in (CLUSTER, LISTENER):
            self.held[type_url] = dict(after)
        else:
            self.held[type_url].update(after)
        for name in response.removed if self.incremental else ():
            self.held[type_url].pop(name, None)
        for name in after:
            if name in described.of(type_url):
                self.contents[type_url, name] = needs(described, type_url, name)
        self._versions[type_url] = response.version
        if type_url == CLUSTER:
            self.warming |= {name for name, version in after.items() if before.get(name) != version}
        if type_url == ENDPOINTS:
            self.warming -= set(after)
        self.warming &= self.held[CLUSTER].keys()
        self._answer(response, "")
        self._subscribe()

    def give_up(self, clusters: set[str]) -> None:
        """Uses clusters without the endpoints that never came, as an Envoy does after its initial fetch timeout."""
        self.warming -= clusters
        self._subscribe()

    def routed(self) -> set[str]:
        """Gives the clusters that its routes name."""
        return {cluster for name in self.held[ROUTES] for cluster in self.contents[ROUTES, name].get(CLUSTER, ())}

    def _answer(self, response: Response, refusal: str) -> None:
        type_url = response.type_url
        if self.incremental:
            request = Request(type_url, response.nonce, refusal)
        else:
            names = tuple(sorted(self._names.get(type_url, ())))
            request = Request(type_url, response.nonce, refusal, names, self._versions.get(type_url, ""))
        if type_url == CLUSTER and self.warming and not refusal:
            # An Envoy accepts clusters when they are warm.
            self._paused = [*self._paused, request] if self.incremental else [request]
        else:
            self.outbox.append(request)
        self._let_go()

    def _let_go(self) -> None:
        if not self.warming:
            self.outbox.extend(self._paused)
            self._paused.clear()

    def _subscribe(self) -> None:
        wanted: dict[str, set[str]] = {SECRET: set(), ENDPOINTS: set(), ROUTES: set()}
        for type_url in (CLUSTER, LISTENER):
            for name in self.held[type_url]:
                for other, names in self.contents[type_url, name].items():
                    wanted[other].update(names)
        for type_url, names in wanted.items():
            former = self._names.get(type_url, set())
            self._names[type_url] = names
            for name in self.held[type_url].keys() - names:
                del self.held[type_url][name]
            if type_url not in self._begun:
                if names:
                    self._begin(type_url, tuple(sorted(names)))
            elif former != names:
                self.outbox.append(self._change(type_url, former, names))
        if LISTENER not in self._begun and not self.warming:
            self._begin(LISTENER, ())
        self._let_go()

    def _change(self, type_url: str, former: set[str], names: set[str]) -> Request:
        if self.incremental:
            subscribe, unsubscribe = tuple(sorted(names - former)), tuple(sorted(former - names))
            return Request(type_url, subscribe=subscribe, unsubscribe=unsubscribe)
        nonce = self._nonces.get(type_url, "")
        return Request(type_url, nonce, "", tuple(sorted(names)), self._versions.get(type_url, ""))

    def _begin(self, type_url: str, names: tuple[str, ...]) -> None:
        self._begun.add(type_url)
        if self.incremental:
            held = dict(self.held[type_url])
            self.outbox.append(Request(type_url, subscribe=names, held=held))
        else:
            self.outbox.append(Request(type_url, names=names, version=self._versions.get(type_url, "")))
