"""What operators may set of a tenant, and what of it goes together."""

import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum

from redoma_kit.errors import InvalidField
from redoma_tenant.content_checks import ContentChecks
from redoma_tenant.names import check_display_name, check_models

MAX_WEIGHT = 1_000
MIN_RETENTION = timedelta(hours=1)
MAX_RETENTION = timedelta(days=3_653)
ADAPTER = re.compile(r"sha256:[0-9a-f]{64}")
REGION = re.compile(r"[a-z0-9-]{1,63}")


class Isolation(Enum):
    """What of the model a tenant has for itself."""

    SHARED = "SHARED"
    SHARED_TUNED = "SHARED_TUNED"
    DEDICATED = "DEDICATED"


class ContentStorage(Enum):
    """Where the texts of conversations are kept."""

    PUBLIC = "PUBLIC"
    NONE = "NONE"
    PRIVATE = "PRIVATE"


@dataclass(frozen=True, slots=True)
class TenantProfile:
    """All that operators set of a tenant.

    Attributes:
        display_name: What people call it.
        weight: Its own share of the model; 0 is its plan's.
        content_checks: What is checked of its prompts and answers.
        plan: Id of its plan; empty is none.
        isolation: What of the model it has for itself.
        adapter: Digest of its adapter; empty is none.
        models: Ids of the models it may use; empty is all.
        region: Where its data and its model belong; empty is no matter where.
        retention: How long conversations are kept after their last change; None is until they are deleted.
        tuning_consent: Whether its conversations may be used to tune models.
        content_storage: Where the texts of its conversations are kept.
    """

    display_name: str = ""
    weight: int = 0
    content_checks: ContentChecks = field(default_factory=ContentChecks)
    plan: str = ""
    isolation: Isolation = Isolation.SHARED
    adapter: str = ""
    models: tuple[str, ...] = ()
    region: str = ""
    retention: timedelta | None = None
    tuning_consent: bool = False
    content_storage: ContentStorage = ContentStorage.PUBLIC

    def checked(self, where: str) -> "TenantProfile":
        """Gives the profile as it is kept; `where` is the field of the request that holds them.

        Raises:
            InvalidField: A value is out of range, or two contradict each other.
        """
        check_display_name(f"{where}.display_name", self.display_name)
        if not 0 <= self.weight <= MAX_WEIGHT:
            raise InvalidField(
                f"{where}.weight", f"is {self.weight}; it must be 1 to {MAX_WEIGHT}, or 0 for its plan's."
            )
        self.content_checks.check(f"{where}.content_checks")
        self._check_adapter(where)
        if self.region and not REGION.fullmatch(self.region):
            raise InvalidField(f"{where}.region", "must be 1 to 63 of a-z, 0-9 and '-', such as eu-west.")
        if self.retention is not None and not MIN_RETENTION <= self.retention <= MAX_RETENTION:
            raise InvalidField(f"{where}.retention", "must be 1 hour to 10 years; leave it out to keep all.")
        return replace(
            self,
            models=check_models(f"{where}.models", self.models),
            retention=None if self.retention is None else timedelta(seconds=self.retention // timedelta(seconds=1)),
        )

    def _check_adapter(self, where: str) -> None:
        is_tuned = self.isolation is Isolation.SHARED_TUNED
        if is_tuned and not self.adapter:
            raise InvalidField(f"{where}.adapter", "is required with ISOLATION_SHARED_TUNED.")
        if self.adapter and not is_tuned:
            raise InvalidField(
                f"{where}.adapter", "is only for ISOLATION_SHARED_TUNED; change both, or leave it empty."
            )
        if self.adapter and not ADAPTER.fullmatch(self.adapter):
            raise InvalidField(f"{where}.adapter", "must be sha256: and 64 of 0-9 and a-f, as the model service lists.")
