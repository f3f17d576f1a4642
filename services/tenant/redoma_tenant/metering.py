"""The meter with what it does by itself: reconciling, and forgetting what was closed long ago."""

from collections.abc import Callable
from datetime import datetime

import structlog

from redoma_kit.periodic import Periodic
from redoma_tenant.meter.account import Account
from redoma_tenant.meter.meter import Meter
from redoma_tenant.meter.queue import AccountQueue, AccountStore
from redoma_tenant.reconciliation import INTERVAL_S, DueCallStore, Reconciler, UsageJournals

PRUNE_INTERVAL_S = 600.0


class Metering:
    """One for the process. `watch` sees each account that was written."""

    def __init__(
        self,
        accounts: AccountStore,
        due_calls: DueCallStore,
        journals: UsageJournals,
        watch: Callable[[Account], None],
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._queue = AccountQueue(accounts, now, watch)
        self.meter = Meter(self._queue)
        self.reconciler = Reconciler(due_calls, self.meter, journals, now, log)
        self._reconciling = Periodic("reconciling calls", INTERVAL_S, self.reconciler.reconcile, log)
        self._pruning = Periodic("closed calls, old ones", PRUNE_INTERVAL_S, self.reconciler.prune, log)

    def start(self) -> None:
        """Begins to work in the background."""
        self._reconciling.start()
        self._pruning.start()

    async def stop(self) -> None:
        """Ends that, and returns when nothing is being written."""
        await self._reconciling.stop()
        await self._pruning.stop()
        await self._queue.idle()
