"""On whose behalf a transaction runs."""

from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a transaction may see. On PostgreSQL it is a role of the database, named after the service's schema."""

    # The rows of one tenant.
    APP = "app"
    # What it takes to look a credential up.
    AUTH = "auth"
    # All tenants' rows, for operators and for what a service does by itself.
    PLATFORM = "platform"


@dataclass(frozen=True, slots=True)
class Scope:
    """On whose behalf a transaction runs. `tenant` is the id of the one tenant of Role.APP, and empty otherwise."""

    role: Role
    tenant: str = ""

    @classmethod
    def of(cls, tenant: str) -> "Scope":
        """Gives the scope of one tenant.

        Raises:
            ValueError: No tenant is named, which is a defect: PostgreSQL would silently show no row.
        """
        if not tenant:
            raise ValueError("a transaction of a tenant names the tenant")
        return cls(Role.APP, tenant)


AUTH = Scope(Role.AUTH)
PLATFORM = Scope(Role.PLATFORM)
