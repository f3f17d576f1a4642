"""Where the chain of a tenant comes from: the tenant service, asked every few seconds at most."""

from collections import OrderedDict
from collections.abc import Callable

from redoma_chat.checks.blocked_patterns import BlockedPatterns
from redoma_chat.checks.chain import Chain, Check, ContentChecks
from redoma_chat.checks.max_input_tokens import MaxInputTokens
from redoma_chat.model_channel import ModelChannel
from redoma_chat.tenant_channel import TenantChannel

FRESH_S = 5.0
MAX_TENANTS = 4_096


class CheckSource:
    """Builds chains, and keeps each for FRESH_S seconds.

    What is older is not used, so that a tenant service that is down ends in a refusal and not in stale checks.
    """

    def __init__(self, tenants: TenantChannel, model: ModelChannel, clock: Callable[[], float]) -> None:
        self._tenants = tenants
        self._model = model
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Chain]] = OrderedDict()

    async def chain(self, tenant: str) -> Chain:
        """Gives the chain of the caller's tenant.

        Raises:
            ChecksUnavailable: The tenant service can't be asked, and nothing fresh is known.
        """
        known = self._known.get(tenant)
        asked_at = self._clock()
        if known is not None and asked_at - known[0] < FRESH_S:
            return known[1]
        chain = self._build(await self._tenants.content_checks())
        self._known[tenant] = (asked_at, chain)
        self._known.move_to_end(tenant)
        if len(self._known) > MAX_TENANTS:
            self._known.popitem(last=False)
        return chain

    def _build(self, checks: ContentChecks) -> Chain:
        members: list[Check] = []
        # Masking comes first: it changes what is counted.
        if checks.blocked_patterns:
            members.append(BlockedPatterns(checks.blocked_patterns))
        if checks.max_input_tokens > 0:
            members.append(MaxInputTokens(checks.max_input_tokens, self._model))
        return Chain(members)
