"""Gathers what may come in floods, such as denied calls: what is the same within some seconds becomes one entry."""

from dataclasses import replace

import structlog

from redoma_kit.periodic import Periodic
from redoma_tenant.audit.chain import Event, time_text
from redoma_tenant.audit.trail import AuditTrail
from redoma_tenant.audit.wording import fit

INTERVAL_S = 10.0
# Kinds that are told apart between two rounds. What comes beyond is counted by its result alone.
MAX_KINDS = 500
OVERFLOW = "redoma.audit/Others"

Kind = tuple[str, str, str, str, str, str]


class Repeats:
    """Counts events that differ in their time alone, and hands each kind on as one entry with the count."""

    def __init__(self, trail: AuditTrail, log: structlog.stdlib.BoundLogger, interval_s: float = INTERVAL_S) -> None:
        self._trail = trail
        self._kinds: dict[Kind, tuple[Event, Event]] = {}
        self._periodic = Periodic("audit repeats", interval_s, self._round, log)

    def note(self, event: Event) -> None:
        """Notes an event. It is appended within the interval, or when the trail can write again."""
        event = fit(event)
        if _kind(event) not in self._kinds and len(self._kinds) >= MAX_KINDS:
            event = replace(event, chain="", actor="", action=OVERFLOW, resource="", source="", details={})
        kind = _kind(event)
        first, _ = self._kinds.get(kind, (replace(event, count=0), event))
        self._kinds[kind] = (replace(first, count=first.count + event.count), event)

    def start(self) -> None:
        """Begins to hand on."""
        self._periodic.start()

    async def stop(self) -> None:
        """Hands on what is left and stops."""
        await self._periodic.stop()
        self.flush()

    def flush(self) -> None:
        """Hands on what is there."""
        kinds, self._kinds = self._kinds, {}
        for first, last in kinds.values():
            details = {} if first.count == 1 else {"last_time": time_text(last.time)}
            self._trail.submit(replace(first, details={**first.details, **details}))

    async def _round(self) -> None:
        # While the trail can't write, they go on being counted here, where they take bounded memory.
        self._trail.check()
        self.flush()


def _kind(event: Event) -> Kind:
    return (event.chain, event.actor, event.action, event.resource, event.source, event.result)
