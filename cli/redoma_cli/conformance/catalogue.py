"""All checks there are, in the order of the report."""

from redoma_cli.conformance.check import Check
from redoma_cli.conformance.checks.adapter_contamination import AdapterContamination
from redoma_cli.conformance.checks.cache_probe import CacheProbe
from redoma_cli.conformance.checks.drop_and_charge import DropAndCharge
from redoma_cli.conformance.checks.forged_identity import ForgedIdentity
from redoma_cli.conformance.checks.key_leakage import KeyLeakage
from redoma_cli.conformance.checks.noisy_neighbour import NoisyNeighbour
from redoma_cli.conformance.checks.quota_exactness import QuotaExactness
from redoma_cli.conformance.checks.revocation import Revocation
from redoma_cli.conformance.checks.stream_end import StreamEnd
from redoma_cli.conformance.checks.tenant_isolation import TenantIsolation
from redoma_cli.errors import CliError


def all_checks() -> tuple[Check, ...]:
    """Gives every check; those that send bad credentials last, and most of them at the end: they may be slowed down."""
    return (
        TenantIsolation(),
        CacheProbe(),
        AdapterContamination(),
        DropAndCharge(),
        NoisyNeighbour(),
        QuotaExactness(),
        StreamEnd(),
        Revocation(),
        KeyLeakage(),
        ForgedIdentity(),
    )


def chosen(ids: list[str]) -> tuple[Check, ...]:
    """Gives the checks of these ids, all for none.

    Raises:
        CliError: There is no such check.
    """
    by_id = {check.id: check for check in all_checks()}
    unknown = [wanted for wanted in ids if wanted not in by_id]
    if unknown:
        raise CliError(f"There is no check {unknown[0]}.", f"The checks are: {', '.join(by_id)}.")
    return tuple(check for check in by_id.values() if not ids or check.id in ids)
