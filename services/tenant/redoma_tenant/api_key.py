"""An API key, and what may be set of one."""

from collections.abc import Set
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

from redoma_kit.errors import InvalidField, ScopeMissing
from redoma_kit.identity import PLATFORM_ADMIN
from redoma_tenant.errors import StateConflict
from redoma_tenant.limits import Limits
from redoma_tenant.names import api_key_name, check_display_name, check_models
from redoma_tenant.networks import check_cidrs
from redoma_tenant.policy import TENANT_ADMIN, TENANT_OWNER, TENANT_READ

GENERATE = "generate"
CONVERSATIONS = "conversations"
DEFAULT_SCOPES = (GENERATE, CONVERSATIONS)
KEY_SCOPES = (GENERATE, CONVERSATIONS, TENANT_READ, TENANT_ADMIN, TENANT_OWNER)
OPERATOR_SCOPES = (PLATFORM_ADMIN,)


class ApiKeyState(Enum):
    """Whether a key works."""

    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class ApiKeySettings:
    """What a caller may say of a key.

    Attributes:
        display_name: What people call it.
        scopes: What it may do; fixed when it is made.
        expire_time: When it stops working; None is never.
        models: Ids of the models it may use, of those that its tenant may; empty is all of these.
        cidrs: Networks it may be used from; empty is any.
        limits: Limits of this key alone.
        user: Id of the user of its tenant that it stands for in usage; empty is none.
    """

    display_name: str = ""
    scopes: tuple[str, ...] = ()
    expire_time: datetime | None = None
    models: tuple[str, ...] = ()
    cidrs: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    user: str = ""

    def checked(self, tenant: str, now: datetime) -> "ApiKeySettings":
        """Gives the settings as they are kept, for a key of `tenant` or, where that is empty, of an operator.

        Raises:
            InvalidField: A value can't be used.
        """
        check_display_name("api_key.display_name", self.display_name)
        if self.expire_time is not None and self.expire_time <= now:
            raise InvalidField("api_key.expire_time", "must lie in the future.")
        self.limits.check("api_key.limits")
        if not tenant:
            self._check_operators()
        scopes = KEY_SCOPES if tenant else OPERATOR_SCOPES
        if not set(self.scopes) <= set(scopes):
            raise InvalidField("api_key.scopes", f"every scope must be one of {', '.join(scopes)}.")
        defaults = DEFAULT_SCOPES if tenant else OPERATOR_SCOPES
        return replace(
            self,
            scopes=tuple(dict.fromkeys(self.scopes or defaults)),
            models=check_models("api_key.models", self.models),
            cidrs=check_cidrs("api_key.cidrs", self.cidrs),
        )

    def _check_operators(self) -> None:
        for name, value in (("models", self.models), ("user", self.user)):
            if value:
                raise InvalidField(f"api_key.{name}", "is for keys of tenants; an operator's key has none.")
        if self.limits != Limits():
            raise InvalidField("api_key.limits", "are for keys of tenants; an operator's key has none.")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept, without its hash.

    Attributes:
        tenant: Id of its tenant; empty for an operator's.
        prefix: The part that may be shown.
        last_use_time: To the minute.
        replaced_by: Id of the key that takes its place; empty unless it was rotated.
        version: Counts its changes.
    """

    tenant: str
    id: str
    display_name: str
    prefix: str
    scopes: tuple[str, ...]
    expire_time: datetime | None
    create_time: datetime
    last_use_time: datetime | None = None
    revoke_time: datetime | None = None
    models: tuple[str, ...] = ()
    cidrs: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    user: str = ""
    replaced_by: str = ""
    version: int = 1

    @classmethod
    def of(cls, tenant: str, api_key: str, settings: ApiKeySettings, now: datetime) -> "ApiKey":
        """Gives a key as it is before it has a secret."""
        return cls(
            tenant=tenant,
            id=api_key,
            display_name=settings.display_name,
            prefix="",
            scopes=settings.scopes,
            expire_time=settings.expire_time,
            create_time=now,
            models=settings.models,
            cidrs=settings.cidrs,
            limits=settings.limits,
            user=settings.user,
        )

    @property
    def name(self) -> str:
        """The resource name."""
        return api_key_name(self.tenant, self.id)

    def state(self, now: datetime) -> ApiKeyState:
        """Says whether the key works at `now`."""
        if self.revoke_time is not None:
            return ApiKeyState.REVOKED
        if self.expire_time is not None and self.expire_time <= now:
            return ApiKeyState.EXPIRED
        return ApiKeyState.ACTIVE

    def check_may_change(self, held: Set[str]) -> None:
        """Raises ScopeMissing unless who holds the scopes `held` may give all that the key has."""
        if TENANT_OWNER in self.scopes and not held & {TENANT_OWNER, PLATFORM_ADMIN}:
            raise ScopeMissing(TENANT_OWNER)

    def check_may_rotate(self, now: datetime) -> None:
        """Raises StateConflict unless the key works and has no successor."""
        state = self.state(now)
        if state is not ApiKeyState.ACTIVE:
            raise StateConflict(self.name, f"STATE_{state.value}", "does not work any more; make another key.")
        if self.replaced_by:
            successor = api_key_name(self.tenant, self.replaced_by)
            raise StateConflict(self.name, "STATE_ACTIVE", f"was rotated already; {successor} takes its place.")

    def successor(self, api_key: str, now: datetime) -> "ApiKey":
        """Gives a key with the settings of this one and as long a life, before it has a secret."""
        return replace(
            self,
            id=api_key,
            prefix="",
            expire_time=None if self.expire_time is None else now + (self.expire_time - self.create_time),
            create_time=now,
            last_use_time=None,
            version=1,
        )

    def replaced(self, successor: str, now: datetime, overlap: timedelta) -> "ApiKey":
        """Gives the key as it is once `successor` takes its place; without an overlap it is revoked."""
        end = now + overlap
        return replace(
            self,
            expire_time=end if self.expire_time is None else min(self.expire_time, end),
            revoke_time=None if overlap else now,
            replaced_by=successor,
            version=self.version + 1,
        )
