"""The places that content is erased from."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from redoma_kit.errors import StorageUnavailable
from redoma_tenant.privacy.eraser import NotAcknowledged
from redoma_tenant.privacy.erasures import Subject

SIGN_IN, CHAT = "tenant", "chat"


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
    """A model process."""

    async def purge(self, tenant: str) -> Mapping[str, int]:
        """Drops all that was computed for the tenant. Raises NotAcknowledged."""


class ChatPlace:
    """The conversations. Of a user, those that his keys had are his too."""

    __slots__ = ("_channel", "_people")

    name = CHAT

    def __init__(self, channel: ContentChannel, people: PersonStore) -> None:
        self._channel = channel
        self._people = people

    async def erase(self, subject: Subject) -> Mapping[str, int]:
        """Erases the subject's conversations; without a principal the tenant's content key too."""
        principals = await _asked(self._people, subject) if subject.principal else [""]
        erased: dict[str, int] = {}
        for principal in principals:
            for kind, count in (await self._channel.erase(subject.tenant, principal)).items():
                erased[kind] = erased.get(kind, 0) + count
        return erased


class ModelPlace:
    """The caches of one model process, which knows tenants and not principals."""

    __slots__ = ("_channel", "name")

    def __init__(self, target: str, channel: PurgeChannel) -> None:
        self.name = f"model/{target}"
        self._channel = channel

    async def erase(self, subject: Subject) -> Mapping[str, int]:
        """Drops what was computed for the subject's tenant."""
        return await self._channel.purge(subject.tenant)


class SignInPlace:
    """This service's own record of a person. It comes last: the others find his keys by it."""

    __slots__ = ("_now", "_people")

    name = SIGN_IN

    def __init__(self, people: PersonStore, now: Callable[[], datetime]) -> None:
        self._people = people
        self._now = now

    async def erase(self, subject: Subject) -> Mapping[str, int]:
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
