"""What one Envoy has asked for of one type of resource on one stream, and what of it it has."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from redoma_kit.errors import InvalidField
from redoma_provisioner.edge.encoding import Encoded
from redoma_provisioner.edge.served import Served

WILDCARD = "*"
MAX_NAMES = 10_000
MAX_NAME_CHARACTERS = 512
# The Envoy knows that there is no such resource.
ABSENT = Encoded("", b"")


@dataclass(frozen=True, slots=True)
class Sent:
    """A response that is not answered yet.

    Attributes:
        nonce: Its number on the stream.
        snapshot: The version of the snapshot it was made of.
        type_version: That of all resources of the type in it.
        versions: What it said, by name; empty is that there is none.
        changed: The names that the Envoy did not have so.
    """

    nonce: int
    snapshot: str
    type_version: str
    versions: Mapping[str, str]
    changed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Difference:
    """What the Envoy lacks.

    Attributes:
        changed: What it should have in another version than it has, by name.
        missing: Names it asked for and has not been told that there is none of.
        gone: Names it has and there is nothing of any more.
    """

    changed: Mapping[str, Encoded]
    missing: tuple[str, ...]
    gone: tuple[str, ...]


@dataclass(slots=True)
class Subscription:
    """One type of resource on one stream. `wildcard` asks for all there are, `names` for those.

    Attributes:
        held: What the Envoy was sent last of each name, whether or not it has answered.
        uncertain: Names that it may have in another version all the same.
        begun: Whether it was sent anything, or has said that it needs nothing.
        unanswered: Responses on their way, the oldest first.
        refusal: What it said when it refused the last answered response; empty if it did not.
        refused: The versions that it refused. They are not sent again as they are, unless others of the type change:
            then all of them are, since it may have kept none of the response they were in.
    """

    type_url: str
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    held: dict[str, Encoded] = field(default_factory=dict)
    uncertain: set[str] = field(default_factory=set)
    unanswered: list[Sent] = field(default_factory=list)
    begun: bool = False
    refusal: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    refused_at: str = ""
    sent_version: str = ""
    accepted_version: str = ""
    answer_time: datetime | None = None

    def subscribe(self, names: Collection[str], wildcard: bool) -> None:
        """Asks for exactly these names, and for all if `wildcard`."""
        if len(names) > MAX_NAMES or any(len(name) > MAX_NAME_CHARACTERS for name in names):
            raise InvalidField(
                "resource_names", f"may be {MAX_NAMES} names of {MAX_NAME_CHARACTERS} characters at most."
            )
        self.names = {*names} - {WILDCARD}
        self.wildcard = wildcard
        if not wildcard:
            for of_names in (self.held, self.refused):
                for name in of_names.keys() - self.names:
                    del of_names[name]
            self.uncertain &= self.names

    def wanted(self, served: Served) -> Mapping[str, Encoded]:
        """Gives what there is of what it asks for."""
        available = served.encoded.get(self.type_url, {})
        if self.wildcard:
            return available
        return {name: available[name] for name in sorted(self.names & available.keys())}

    def difference(self, served: Served) -> Difference:
        """Compares what it has with what it should have, what it refused left out."""
        if self.refused_at != served.type_versions.get(self.type_url, ""):
            self.refused.clear()
        wanted = self.wanted(served)
        changed = {
            name: encoded
            for name, encoded in wanted.items()
            if (name in self.uncertain or self.held.get(name, ABSENT).version != encoded.version)
            and self.refused.get(name) != encoded.version
        }
        missing = tuple(sorted(self.names - wanted.keys() - self.held.keys()))
        gone = tuple(
            sorted(
                name
                for name, held in self.held.items()
                if held is not ABSENT and name not in wanted and self.refused.get(name) != ABSENT.version
            )
        )
        return Difference(changed, missing, gone)

    def note_sent(
        self,
        nonce: int,
        served: Served,
        resources: Mapping[str, Encoded],
        changed: frozenset[str],
        removed: Collection[str],
    ) -> None:
        """Takes note of a response: all in it, what of that is other than before, and what there is none of."""
        self.held.update(resources)
        self.uncertain.difference_update(resources, removed)
        for name in removed:
            if name in self.names:
                self.held[name] = ABSENT
            else:
                self.held.pop(name, None)
        versions = {name: encoded.version for name, encoded in resources.items()}
        versions.update(dict.fromkeys(removed, ABSENT.version))
        type_version = served.type_versions.get(self.type_url, "")
        self.unanswered.append(Sent(nonce, served.snapshot.version, type_version, versions, changed))
        self.begun = True
        self.sent_version = served.snapshot.version

    def note_answer(self, nonce: int, refusal: str, now: datetime) -> None:
        """Takes note of the answer to the response of that number."""
        answered = next((sent for sent in self.unanswered if sent.nonce == nonce), None)
        if answered is None:
            return
        self.unanswered.remove(answered)
        self.answer_time = now
        self.refusal = refusal
        if not refusal:
            self.accepted_version = answered.snapshot
            return
        self.refused.update(answered.versions)
        self.refused_at = answered.type_version
        self.uncertain.update(name for name in answered.versions if self.wildcard or name in self.names)

    def forget_before(self, nonce: int) -> None:
        """Drops unanswered responses with a lower number, which a later one has taken the place of."""
        self.unanswered = [sent for sent in self.unanswered if sent.nonce >= nonce]

    def note_current(self, served: Served) -> None:
        """Takes note that there is nothing to send of that snapshot."""
        self.sent_version = served.snapshot.version
        if not self.unanswered and not self.refusal:
            self.accepted_version = served.snapshot.version
