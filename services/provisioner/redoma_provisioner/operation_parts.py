"""Puts together what keeps and runs operations."""

from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from redoma_kit.database import Database
from redoma_provisioner.errors import ERRORS
from redoma_provisioner.operations.operations import Notices, Operations
from redoma_provisioner.operations.progress import Executor
from redoma_provisioner.operations.runner import OperationRunner
from redoma_provisioner.store.operations import SqlOperationStore


class OperationParts:
    """Operations and who runs them: `executors` by kind. `start` once the schema is up to date."""

    def __init__(
        self,
        database: Database,
        executors: Mapping[str, Executor],
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        store, notices = SqlOperationStore(database), Notices()
        self._runner = OperationRunner(store, executors, notices, ERRORS, now, log)
        self.operations = Operations(store, notices, self._runner.wake, now)

    def start(self) -> None:
        """Begins, also with what a former process left."""
        self._runner.start()

    async def stop(self) -> None:
        """Leaves what runs for another process to go on with."""
        await self._runner.stop()
