"""Where the chain of a tenant comes from: the tenant service, asked every few seconds at most."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from redoma_chat.checks.blocked_patterns import BlockedPatterns
from redoma_chat.checks.chain import Chain, Check, ContentChecks
from redoma_chat.checks.max_input_tokens import MaxInputTokens
from redoma_chat.content_storage import ContentStorage
from redoma_chat.model_channel import ModelChannel
from redoma_chat.tenant_channel import TenantChannel

FRESH_S = 5.0
MAX_TENANTS = 4_096


@dataclass(frozen=True, slots=True)
class _Wishes:
    chain: Chain
    storage: ContentStorage


class CheckSource:
    """Builds chains, and keeps each for FRESH_S seconds, with where the tenant wants its texts to be kept.

    Callers that come while the tenant service is asked share the answer.

    What is older is not used, so that a tenant service that is down ends in a refusal and not in stale checks.
    """

    def __init__(self, tenants: TenantChannel, model: ModelChannel, clock: Callable[[], float]) -> None:
        self._tenants = tenants
        self._model = model
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, _Wishes]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Wishes]] = {}

    async def chain(self, tenant: str) -> Chain:
        """Gives the chain of the caller's tenant.

        Raises:
            ChecksUnavailable: The tenant service can't be asked, and nothing fresh is known.
        """
        return (await self._wishes(tenant)).chain

    async def storage(self, tenant: str) -> ContentStorage:
        """Gives where the caller's tenant wants its texts to be kept. Raises as `chain` does."""
        return (await self._wishes(tenant)).storage

    async def _wishes(self, tenant: str) -> _Wishes:
        known = self._known.get(tenant)
        if known is not None and self._clock() - known[0] < FRESH_S:
            return known[1]
        asking = self._asking.get(tenant)
        if asking is None:
            asking = self._asking[tenant] = asyncio.create_task(self._ask(tenant))
            asking.add_done_callback(lambda done: self._asked(tenant, done))
        # A caller that leaves does not take the answer from the others.
        return await asyncio.shield(asking)

    async def _ask(self, tenant: str) -> _Wishes:
        asked_at = self._clock()
        checks = await self._tenants.content_checks()
        wishes = _Wishes(self._build(checks), checks.storage)
        self._known[tenant] = (asked_at, wishes)
        self._known.move_to_end(tenant)
        if len(self._known) > MAX_TENANTS:
            self._known.popitem(last=False)
        return wishes

    def _asked(self, tenant: str, done: asyncio.Task[_Wishes]) -> None:
        del self._asking[tenant]
        if not done.cancelled():
            # Every caller may have left: then nobody else takes the failure.
            done.exception()

    def _build(self, checks: ContentChecks) -> Chain:
        members: list[Check] = []
        # Masking comes first: it changes what is counted.
        if checks.blocked_patterns:
            members.append(BlockedPatterns(checks.blocked_patterns))
        if checks.max_input_tokens > 0:
            members.append(MaxInputTokens(checks.max_input_tokens, self._model))
        return Chain(members)
