"""The cache of credentials: bounded, never older than a change, and never past what it keeps."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from redoma_kit.errors import CredentialInvalid
from redoma_tenant.caller import Caller, Verdict
from redoma_tenant.credential_cache import BAD_S, GOOD_S, CredentialCache
from redoma_tenant.identity import Principal

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass(slots=True)
class Clocks:
    """Both clocks, moved together."""

    passed_s: float = 0.0

    def now(self) -> datetime:
        """The time of day."""
        return NOON + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        """Seconds."""
        return self.passed_s


def good(tenant: str = "acme", principal: str = "", until: datetime | None = None) -> Verdict:
    """Gives the verdict on a credential that counts."""
    name = principal or f"tenants/{tenant}/apiKeys/k"
    return Verdict(tenant, name, Caller(Principal(name, tenant, frozenset({"generate"}), 100)), until=until)


def bad() -> Verdict:
    """Gives the verdict on one that does not."""
    return Verdict(refusal=lambda: CredentialInvalid("no"))


def make(max_good: int = 10, max_bad: int = 10) -> tuple[CredentialCache, Clocks]:
    """Gives what a test needs."""
    clocks = Clocks()
    return CredentialCache(clocks.now, clocks.monotonic, max_good, max_bad), clocks


def test_a_verdict_is_kept_no_longer_than_its_credential() -> None:
    cache, clocks = make()
    cache.put("k", good(until=NOON + timedelta(seconds=3)), cache.generation)
    clocks.passed_s = 2.9
    assert cache.get("k")
    clocks.passed_s = 3.0
    assert cache.get("k") is None


def test_what_nobody_told_of_ends_by_itself() -> None:
    cache, clocks = make()
    cache.put("k", good(), cache.generation)
    cache.put("guess", bad(), cache.generation)
    clocks.passed_s = BAD_S
    assert cache.get("k") and not cache.get("guess")
    clocks.passed_s = GOOD_S
    assert not cache.get("k")


def test_guesses_push_out_no_credential_that_counts() -> None:
    cache, _ = make(max_good=2, max_bad=2)
    cache.put("k", good(), cache.generation)
    for guess in range(100):
        cache.put(f"guess {guess}", bad(), cache.generation)
    assert cache.get("k")
    assert len(cache) == 3


def test_what_was_used_last_stays() -> None:
    cache, _ = make(max_good=2)
    cache.put("a", good(), cache.generation)
    cache.put("b", good(), cache.generation)
    cache.get("a")
    cache.put("c", good(), cache.generation)
    assert cache.get("a") and cache.get("c") and not cache.get("b")


def test_an_answer_that_a_change_overtook_is_not_kept() -> None:
    cache, _ = make()
    asked_at = cache.generation
    cache.forget("acme", "tenants/acme/apiKeys/k")
    cache.put("k", good(), asked_at)
    assert cache.get("k") is None


OWNERS = st.sampled_from([(tenant, f"tenants/{tenant}/apiKeys/{key}") for tenant in ("a", "b") for key in "xy"])
CHANGES = st.sampled_from(
    [("", ""), ("a", ""), ("b", ""), ("a", "tenants/a/apiKeys/x"), ("", "tenants/b/apiKeys/y"), ("c", "")]
)


@given(kept=st.lists(OWNERS, max_size=8), change=CHANGES)
def test_a_change_ends_what_it_concerns_and_nothing_else(kept: list[tuple[str, str]], change: tuple[str, str]) -> None:
    cache, _ = make()
    for number, (tenant, principal) in enumerate(kept):
        cache.put(str(number), good(tenant, principal), cache.generation)
    cache.forget(*change)
    for number, (tenant, principal) in enumerate(kept):
        is_meant = principal == change[1] if change[1] else change[0] in ("", tenant)
        assert (cache.get(str(number)) is None) is is_meant
