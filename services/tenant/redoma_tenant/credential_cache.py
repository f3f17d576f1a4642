"""What is known of credentials, so that most requests need no database; it forgets what a change concerns."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from redoma_tenant.caller import Verdict

MAX_GOOD = 10_000
# A guesser's credentials must not push out those that count.
MAX_BAD = 2_000
# Changes end what is known at once. These bound how long something holds that nobody told of.
GOOD_S, BAD_S = 60.0, 5.0


@dataclass(frozen=True, slots=True)
class _Kept:
    verdict: Verdict
    # On the monotonic clock, in seconds.
    until_s: float


class CredentialCache:
    """Verdicts by the SHA-256 of the credential; those used last stay when there are too many.

    `generation` grows with each change. Whoever looks a credential up says of which generation the answer is, and an
    answer that a change may have overtaken is not kept.
    """

    __slots__ = ("_bad", "_good", "_monotonic", "_now", "generation")

    def __init__(
        self,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        max_good: int = MAX_GOOD,
        max_bad: int = MAX_BAD,
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self._good = _Shelf(max_good)
        self._bad = _Shelf(max_bad)
        self.generation = 0

    def get(self, digest: str) -> Verdict | None:
        """Gives what is known of a credential, if that still counts."""
        for shelf in (self._good, self._bad):
            kept = shelf.get(digest)
            if kept is None:
                continue
            until = kept.verdict.until
            if self._monotonic() < kept.until_s and (until is None or self._now() < until):
                return kept.verdict
            shelf.drop(digest)
        return None

    def put(self, digest: str, verdict: Verdict, generation: int) -> None:
        """Keeps what was looked up when the cache was of `generation`."""
        if generation != self.generation:
            return
        is_good = verdict.caller is not None
        kept = _Kept(verdict, self._monotonic() + (GOOD_S if is_good else BAD_S))
        (self._good if is_good else self._bad).put(digest, kept)

    def forget(self, tenant: str, principal: str) -> None:
        """Forgets the principal, all of the tenant where it is empty, and everything where both are."""
        self.generation += 1
        for shelf in (self._good, self._bad):
            if principal:
                shelf.drop_principal(principal)
            elif tenant:
                shelf.drop_tenant(tenant)
            else:
                shelf.clear()

    def __len__(self) -> int:
        return len(self._good) + len(self._bad)


class _Shelf:
    """A bounded map, the one used longest ago first, that finds its entries by tenant and by principal."""

    __slots__ = ("_by_principal", "_by_tenant", "_kept", "_max")

    def __init__(self, max_entries: int) -> None:
        self._max = max_entries
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._by_tenant: dict[str, set[str]] = {}
        self._by_principal: dict[str, set[str]] = {}

    def get(self, digest: str) -> _Kept | None:
        kept = self._kept.get(digest)
        if kept is not None:
            self._kept.move_to_end(digest)
        return kept

    def put(self, digest: str, kept: _Kept) -> None:
        self.drop(digest)
        self._kept[digest] = kept
        if kept.verdict.tenant:
            self._by_tenant.setdefault(kept.verdict.tenant, set()).add(digest)
        if kept.verdict.principal:
            self._by_principal.setdefault(kept.verdict.principal, set()).add(digest)
        while len(self._kept) > self._max:
            self.drop(next(iter(self._kept)))

    def drop(self, digest: str) -> None:
        kept = self._kept.pop(digest, None)
        if kept is not None:
            _unlink(self._by_tenant, kept.verdict.tenant, digest)
            _unlink(self._by_principal, kept.verdict.principal, digest)

    def drop_principal(self, principal: str) -> None:
        for digest in tuple(self._by_principal.get(principal, ())):
            self.drop(digest)

    def drop_tenant(self, tenant: str) -> None:
        for digest in tuple(self._by_tenant.get(tenant, ())):
            self.drop(digest)

    def clear(self) -> None:
        self._kept.clear()
        self._by_tenant.clear()
        self._by_principal.clear()

    def __len__(self) -> int:
        return len(self._kept)


def _unlink(index: dict[str, set[str]], name: str, digest: str) -> None:
    digests = index.get(name)
    if digests is not None:
        digests.discard(digest)
        if not digests:
            del index[name]
