"""Who may be served by this process, and with which adapter: the signed identity decides, and nothing falls back."""

from collections.abc import Mapping

from redoma_kit.errors import CredentialInvalid
from redoma_kit.identity import Identity
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.errors import AdapterDenied, AdapterNotFound, ModelDedicated, ModelNotProvisioned

SHARED = "SHARED"
SHARED_TUNED = "SHARED_TUNED"
DEDICATED = "DEDICATED"
_ISOLATIONS = frozenset({SHARED, SHARED_TUNED, DEDICATED})


class Admission:
    """The rule of one process; `dedicated_tenant` is whom it serves alone, empty when it serves any."""

    __slots__ = ("dedicated_tenant",)

    def __init__(self, dedicated_tenant: str) -> None:
        self.dedicated_tenant = dedicated_tenant

    def check(self, identity: Identity) -> None:
        """Checks that this process may serve the caller.

        Raises:
            ModelDedicated: It serves another tenant alone.
            ModelNotProvisioned: The caller is served by a process of its own only.
            CredentialInvalid: The identity asks for an isolation that is not known.
        """
        if identity.isolation not in _ISOLATIONS:
            raise CredentialInvalid("The call's identity names an isolation that this service does not know.")
        if self.dedicated_tenant:
            if identity.tenant != self.dedicated_tenant:
                raise ModelDedicated()
        elif identity.isolation == DEDICATED:
            raise ModelNotProvisioned(identity.tenant)


def adapter_for(identity: Identity, loaded: Mapping[str, LoadedAdapter]) -> LoadedAdapter | None:
    """Gives the adapter that the caller's requests go through; None is the base model.

    Args:
        identity: The caller's.
        loaded: The model's adapters, by digest.

    Raises:
        AdapterNotFound: The identity names one that is not loaded, or none where it needs one.
        AdapterDenied: It is another tenant's.
    """
    if not identity.adapter and identity.isolation != SHARED_TUNED:
        return None
    adapter = loaded.get(identity.adapter)
    if adapter is None:
        raise AdapterNotFound(identity.adapter)
    if adapter.tenant != identity.tenant:
        raise AdapterDenied()
    return adapter
