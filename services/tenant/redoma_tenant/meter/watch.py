"""Warns operators when a tenant reaches a threshold of a limit: in the log, and as a gauge."""

import structlog

from redoma_kit.telemetry import Telemetry
from redoma_tenant.meter.account import Account


class QuotaWatch:
    """Sees every account that was written. A threshold is logged once in its period, by whichever replica wrote it."""

    def __init__(self, telemetry: Telemetry, log: structlog.stdlib.BoundLogger) -> None:
        self._gauge = telemetry.gauge(
            "redoma_quota_warning_percent",
            "The highest warning threshold of a limit that a tenant has reached, as this process saw it last.",
            ("tenant", "limit"),
        )
        self._log = log
        self._shown: dict[tuple[str, str], int] = {}

    def __call__(self, account: Account) -> None:
        """Looks at an account."""
        for warning in account.warnings():
            self._log.warning(
                "a quota runs low", tenant=account.tenant, limit=warning.limit, reached_percent=warning.percent
            )
        for limit, percent in account.reached_percents().items():
            # A tenant that was never warned has no series.
            if percent != self._shown.get((account.tenant, limit), 0):
                self._shown[account.tenant, limit] = percent
                self._gauge.labels(account.tenant, limit).set(percent)
