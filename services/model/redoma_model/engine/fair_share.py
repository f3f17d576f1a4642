"""The fair-share rule: a virtual token counter for each tenant, after Sheng et al., "Fairness in Serving Large Language
Models" (OSDI 2024).

A tenant's counter grows by the tokens computed for it, weighted by what they cost, over the tenant's weight. Whoever
has the lowest counter is served first, for a place in the batch as for the tokens of a step. A tenant that comes
back from idleness starts no lower than those at work, so that nobody saves service up; and while nobody else asks
for anything, one tenant gets everything.

Two tenants that both always ask for more differ in service by at most twice the larger of the costliest prompt and the
cost of all the tokens that run at once (theorem 4.4); charging each step, and not each request, keeps them closer.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

# What a token of a prompt and a generated token cost, as in the paper.
INPUT_COST = 1.0
OUTPUT_COST = 2.0
# Idle tenants whose counters are remembered.
MAX_IDLE = 1_000


@dataclass(slots=True, eq=False)
class Account:
    """What one tenant was given.

    Attributes:
        weight: Its share relative to others', as its last request said.
        counter: Weighted tokens over weight. Only differences mean something.
        requests: Its requests that wait or run.
        input_tokens: Prompt tokens of its requests, since the model was loaded.
        cached_input_tokens: Those of them that were reused from its own earlier requests.
        output_tokens: Tokens generated for it.
    """

    tenant: str
    weight: int
    counter: float = 0.0
    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Gives what these tokens add to the counter."""
        return (input_tokens * INPUT_COST + output_tokens * OUTPUT_COST) / self.weight

    def charge(self, input_tokens: int, output_tokens: int) -> None:
        """Counts tokens that were computed."""
        self.counter += self.cost(input_tokens, output_tokens)
        self.output_tokens += output_tokens

    def lift(self, peers: Iterable["Account"]) -> None:
        """Raises the counter to the lowest of `peers`, of which there may be none."""
        self.counter = max(self.counter, min((peer.counter for peer in peers), default=self.counter))


class FairShare:
    """The accounts of all tenants. Not thread-safe: the engine's thread owns it."""

    __slots__ = ("_idle", "_last_counter", "active")

    def __init__(self) -> None:
        self.active: dict[str, Account] = {}
        self._idle: OrderedDict[str, Account] = OrderedDict()
        # Of the tenant that left last: where the next one starts when nobody is at work.
        self._last_counter = 0.0

    def join(self, tenant: str, weight: int) -> Account:
        """Counts a request in and gives its tenant's account, lifted when the tenant was idle."""
        account = self.active.get(tenant)
        if account is None:
            account = self._idle.pop(tenant, None) or Account(tenant, weight)
            if self.active:
                account.lift(self.active.values())
            else:
                account.counter = max(account.counter, self._last_counter)
            self.active[tenant] = account
        account.weight = weight
        account.requests += 1
        return account

    def leave(self, account: Account) -> None:
        """Counts a request out."""
        account.requests -= 1
        if account.requests == 0:
            del self.active[account.tenant]
            self._last_counter = account.counter
            self._idle[account.tenant] = account
            if len(self._idle) > MAX_IDLE:
                self._idle.popitem(last=False)

    def accounts(self) -> list[Account]:
        """Gives all accounts there are, those with the most service first."""
        return sorted((*self.active.values(), *self._idle.values()), key=lambda account: -account.counter)
