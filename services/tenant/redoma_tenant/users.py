"""Users: the people of a tenant, who sign in with tokens of an identity provider."""

import secrets
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Protocol

from redoma_kit.errors import InvalidField, ResourceNotFound, ScopeMissing
from redoma_kit.identity import PLATFORM_ADMIN
from redoma_tenant.etags import check_etag
from redoma_tenant.issuers import check_issuer
from redoma_tenant.names import check_display_name, user_name
from redoma_tenant.pages import Page, read_page_by_id
from redoma_tenant.policy import TENANT_OWNER

MAX_SUBJECT = 255
REVOKED = "CREDENTIAL_REVOKED"


class Role(Enum):
    """What a user may do in a tenant."""

    VIEWER = "VIEWER"
    MEMBER = "MEMBER"
    ADMIN = "ADMIN"
    OWNER = "OWNER"


class UserState(Enum):
    """Whether a user may sign in."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


@dataclass(frozen=True, slots=True)
class UserProfile:
    """What administrators say of a user; `issuer` and `subject` are fixed when he is made. None is not said."""

    issuer: str = ""
    subject: str = ""
    display_name: str = ""
    role: Role | None = None
    state: UserState = UserState.ACTIVE


@dataclass(frozen=True, slots=True)
class User:
    """A user as he is kept.

    Attributes:
        tenant: Id of his tenant.
        id: The last part of his name, which says nothing of him.
        issuer: The issuer of his tokens.
        subject: Who he is to that issuer.
        version: Counts his changes.
    """

    tenant: str
    id: str
    issuer: str
    subject: str
    display_name: str
    role: Role
    state: UserState
    create_time: datetime
    update_time: datetime
    version: int = 1

    @property
    def name(self) -> str:
        """The resource name."""
        return user_name(self.tenant, self.id)


class UserStore(Protocol):
    """Where users are kept. Every call may raise StorageUnavailable.

    What changes a user notes that, and gives False if his version is no longer the one meant; `reason` ends his running
    calls. A tenant that has an owner who may sign in is always left with one, or StateConflict is raised.
    """

    async def add_user(self, user: User) -> None:
        """Adds a user.

        Raises ResourceNotFound for the tenant, StateConflict if that is being deleted, ResourceExists if the tenant has
        a user of that issuer and subject.
        """

    async def find_user(self, tenant: str, user: str) -> User | None:
        """Gives a user by id."""

    async def list_users(self, tenant: str, after: str | None, limit: int) -> Sequence[User]:
        """Gives at most `limit` users in the order of their ids, those after `after`. Raises ResourceNotFound."""

    async def change_user(self, user: User, reason: str) -> bool:
        """Keeps a user in place of his version before."""

    async def delete_user(self, user: User, now: datetime) -> bool:
        """Deletes a user of that very version."""


class Users:
    """What a tenant's administrators do with its users. `held` are the scopes of who asks."""

    __slots__ = ("_now", "_store")

    def __init__(self, store: UserStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def create(self, tenant: str, profile: UserProfile, held: Set[str]) -> User:
        """Creates a user before his first sign-in.

        Raises:
            InvalidField: A value can't be used.
            ScopeMissing: He would be an owner, and the caller is none.
            ResourceNotFound: There is no such tenant.
            ResourceExists: The tenant has a user of that issuer and subject.
            StateConflict: The tenant is being deleted.
        """
        check_issuer("user.issuer", profile.issuer)
        _check_subject(profile.subject)
        role = _checked_role(profile)
        _check_may_make(role, held)
        check_display_name("user.display_name", profile.display_name)
        now = self._now()
        user = User(
            tenant=tenant,
            id=secrets.token_hex(16),
            issuer=profile.issuer,
            subject=profile.subject,
            display_name=profile.display_name,
            role=role,
            state=profile.state,
            create_time=now,
            update_time=now,
        )
        await self._store.add_user(user)
        return user

    async def get(self, tenant: str, user_id: str) -> User:
        """Gives a user, or raises ResourceNotFound."""
        user = await self._store.find_user(tenant, user_id)
        if user is None:
            raise ResourceNotFound(user_name(tenant, user_id))
        return user

    async def list(self, tenant: str, requested: int, token: str) -> Page[User]:
        """Gives a page of a tenant's users in the order of their ids.

        Raises:
            InvalidField: The size or the token can't be used.
            ResourceNotFound: There is no such tenant.
        """
        return await read_page_by_id(
            (user_name(tenant, ""),),
            requested,
            token,
            lambda after, limit: self._store.list_users(tenant, after, limit),
        )

    async def update(
        self, tenant: str, user_id: str, wanted: UserProfile, names: Set[str], etag: str, held: Set[str]
    ) -> User:
        """Takes the values that `names` names from `wanted`.

        Raises:
            InvalidField: A value can't be used.
            ScopeMissing: He is an owner or would be one, and the caller is none.
            ResourceNotFound: There is no such user.
            EtagMismatch: `etag` is that of another version.
            StateConflict: He is the last owner and would be none that may sign in.
        """
        check_display_name("user.display_name", wanted.display_name)
        if "role" in names:
            _check_may_make(_checked_role(wanted), held)
        while True:
            former = await self.get(tenant, user_id)
            _check_may_make(former.role, held)
            check_etag(former.name, etag, former.version)
            changed = replace(former, **{name: getattr(wanted, name) for name in names})
            if changed == former:
                return former
            changed = replace(changed, version=former.version + 1, update_time=self._now())
            if await self._store.change_user(changed, REVOKED if changed.state is UserState.DISABLED else ""):
                return changed

    async def delete(self, tenant: str, user_id: str, etag: str, held: Set[str]) -> None:
        """Deletes a user.

        Raises:
            ScopeMissing: He is an owner, and the caller is none.
            ResourceNotFound: There is no such user.
            EtagMismatch: `etag` is that of another version.
            StateConflict: He is the last owner.
        """
        while True:
            user = await self.get(tenant, user_id)
            _check_may_make(user.role, held)
            check_etag(user.name, etag, user.version)
            if await self._store.delete_user(user, self._now()):
                return


def _checked_role(profile: UserProfile) -> Role:
    if profile.role is None:
        raise InvalidField("user.role", "is required: ROLE_VIEWER, ROLE_MEMBER, ROLE_ADMIN or ROLE_OWNER.")
    return profile.role


def _check_may_make(role: Role, held: Set[str]) -> None:
    """Raises ScopeMissing unless who holds the scopes `held` may make, change and delete users of a role."""
    if role is Role.OWNER and not held & {TENANT_OWNER, PLATFORM_ADMIN}:
        raise ScopeMissing(TENANT_OWNER)


def _check_subject(subject: str) -> None:
    if not 1 <= len(subject) <= MAX_SUBJECT:
        raise InvalidField("user.subject", f"must have 1 to {MAX_SUBJECT} characters: the `sub` of his tokens.")
    if "\0" in subject:
        raise InvalidField("user.subject", "must not hold the character NUL.")
