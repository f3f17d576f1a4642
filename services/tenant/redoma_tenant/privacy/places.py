"""The places that content is erased from."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from redoma_kit.errors import StorageUnavailable
from redoma_tenant.privacy.eraser import NotAcknowledged
from redoma_tenant.privacy.erasures import Parts, Subject
from redoma_tenant.replicas import Replicas

SIGN_IN, CHAT, MODEL = "tenant", "chat", "model"
TOLD_PROBLEMS = 3


class PersonStore(Protocol):
    """Where the people behind principals are kept. Every call may raise StorageUnavailable."""

    async def principals_of(self, subject: Subject) -> Sequence[str]:
        """Gives the resource names that content of a subject with a principal is filed under."""

    async def forget_user(self, subject: Subject, now: datetime) -> int:
        """Deletes the person behind a principal, if it is a user, and revokes his keys; gives how many it was."""


class ContentChannel(Protocol):
    """The chat service."""

    async def erase(self, tenant: str, principal: str) -> Mapping[str, int]:
        """Erases conversations; an empty principal is all of the tenant. Raises NotAcknowledged."""


class PurgeChannel(Protocol):
    """The replicas of models."""

    async def purge(self, replica: str, tenant: str) -> Mapping[str, int]:
        """Drops all that a replica computed for the tenant. Raises NotAcknowledged."""


class ChatPlace:
    """The conversations. Of a user, those that his keys had are his too."""

    __slots__ = ("_channel", "_people")

    name = CHAT

    def __init__(self, channel: ContentChannel, people: PersonStore) -> None:
        self._channel = channel
        self._people = people

    async def erase(self, subject: Subject, done: Parts) -> Mapping[str, int]:
        """Erases the subject's conversations; without a principal the tenant's content key too."""
        principals = await _asked(self._people, subject) if subject.principal else [""]
        erased: dict[str, int] = {}
        for principal in principals:
            for kind, count in (await self._channel.erase(subject.tenant, principal)).items():
                erased[kind] = erased.get(kind, 0) + count
        return erased


class ModelPlace:
    """The caches of all replicas of models, which know tenants and not principals.

    A replica that is listed and does not answer holds the erasure up; one that is listed no more is gone, and so is
    what it held. Each is asked until it has purged, and then not again: purging ends the tenant's requests.
    """

    __slots__ = ("_channel", "_replicas")

    name = MODEL

    def __init__(self, replicas: Replicas, channel: PurgeChannel) -> None:
        self._replicas = replicas
        self._channel = channel

    async def erase(self, subject: Subject, done: Parts) -> Mapping[str, int]:
        """Drops what was computed for the subject's tenant, everywhere but in the replicas that are `done`."""
        listed = self._replicas.known
        if listed is None:
            raise NotAcknowledged("The provisioner has not said yet which models there are.", done)
        asked = [replica for replica in listed if replica not in done]
        outcomes = await asyncio.gather(*(self._purged(replica, subject.tenant) for replica in asked))
        purged = dict(done) | {
            replica: it for replica, it in zip(asked, outcomes, strict=True) if not isinstance(it, str)
        }
        left = [replica for replica in self._replicas.known or () if replica not in purged]
        if left:
            problems = [outcome for outcome in outcomes if isinstance(outcome, str)][:TOLD_PROBLEMS]
            raise NotAcknowledged(f"Models that have not purged: {len(left)}. {' '.join(problems)}".rstrip(), purged)
        return _total(purged)

    async def _purged(self, replica: str, tenant: str) -> Mapping[str, int] | str:
        """Gives what was dropped, or why it was not."""
        try:
            return await self._channel.purge(replica, tenant)
        except NotAcknowledged as error:
            return str(error)


class SignInPlace:
    """This service's own record of a person. It comes last: the others find his keys by it."""

    __slots__ = ("_now", "_people")

    name = SIGN_IN

    def __init__(self, people: PersonStore, now: Callable[[], datetime]) -> None:
        self._people = people
        self._now = now

    async def erase(self, subject: Subject, done: Parts) -> Mapping[str, int]:
        """Forgets the person behind a principal; of a whole tenant people and keys stay, so that it can go on."""
        if not subject.principal:
            return {}
        try:
            return {"users": await self._people.forget_user(subject, self._now())}
        except StorageUnavailable:
            raise NotAcknowledged("The database does not answer.") from None


async def _asked(people: PersonStore, subject: Subject) -> Sequence[str]:
    try:
        return await people.principals_of(subject)
    except StorageUnavailable:
        raise NotAcknowledged("The database does not answer.") from None


def _total(parts: Parts) -> Mapping[str, int]:
    """Adds up what the replicas dropped, and counts them."""
    total = Counter[str]()
    for counts in parts.values():
        total.update(counts)
    return {**total, "replicas": len(parts)}
