"""Erasures: what was asked to be erased, and which places have acknowledged it."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Protocol

from redoma_kit.errors import ResourceNotFound
from redoma_tenant.names import check_display_name, tenant_name
from redoma_tenant.pages import Page, TimePlace, read_page_by_time

# What parts of a place have erased, by their names: how many things, by kind.
Parts = Mapping[str, Mapping[str, int]]


class ErasureState(Enum):
    """How far an erasure is."""

    PENDING = "PENDING"
    COMPLETE = "COMPLETE"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose content is meant: all of a tenant's; with `principal`, a resource name, only that principal's."""

    tenant: str
    principal: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One place that content is erased from.

    Attributes:
        place: What people call the place.
        acknowledge_time: When it said that nothing is left; None before.
        erased: How many things it erased, by kind.
        problem: Why it has not acknowledged yet, one sentence; empty if it has, or was not asked yet.
        done: What its parts have erased while others have not; empty once it has acknowledged.
    """

    place: str
    acknowledge_time: datetime | None = None
    erased: Mapping[str, int] | None = None
    problem: str = ""
    done: Parts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Erasure:
    """Content being erased. It stays on record, and says nothing of the content."""

    id: str
    subject: Subject
    purpose: str
    create_time: datetime
    steps: tuple[Step, ...]
    state: ErasureState = ErasureState.PENDING
    complete_time: datetime | None = None
    certificate: str = ""

    @property
    def name(self) -> str:
        """The resource name."""
        return erasure_name(self.subject.tenant, self.id)

    @property
    def acknowledged(self) -> bool:
        """Whether every place has acknowledged."""
        return all(step.acknowledge_time is not None for step in self.steps)

    def with_step(self, step: Step) -> "Erasure":
        """Gives the erasure with the step of the same place replaced."""
        return replace(self, steps=tuple(step if step.place == former.place else former for former in self.steps))


def erasure_name(tenant: str, erasure: str) -> str:
    """Gives the resource name of an erasure."""
    return f"{tenant_name(tenant)}/erasures/{erasure}"


class ErasureStore(Protocol):
    """Where erasures are kept. Every call may raise StorageUnavailable."""

    async def add_erasure(self, erasure: Erasure) -> None:
        """Adds an erasure, or raises ResourceNotFound if its tenant or its principal is missing."""

    async def find_erasure(self, tenant: str, erasure: str) -> Erasure | None:
        """Gives an erasure of a tenant by id."""

    async def list_erasures(self, tenant: str, after: TimePlace | None, limit: int) -> Sequence[Erasure]:
        """Gives at most `limit` of a tenant's erasures, the latest first, those after `after` in that order."""


class Erasures:
    """What owners and operators do with erasures."""

    __slots__ = ("_now", "_places", "_store", "_wake")

    def __init__(
        self, store: ErasureStore, places: Sequence[str], now: Callable[[], datetime], wake: Callable[[], None]
    ) -> None:
        """Takes the names of the `places` that content is erased from, and what to call when there is work."""
        self._store = store
        self._places = places
        self._now = now
        self._wake = wake

    async def begin(self, subject: Subject, purpose: str) -> Erasure:
        """Asks for an erasure; it goes on in the background.

        Raises:
            InvalidField: The purpose is too long.
            ResourceNotFound: There is no such tenant or principal.
        """
        check_display_name("purpose", purpose)
        steps = tuple(Step(place) for place in self._places)
        erasure = Erasure(uuid.uuid4().hex, subject, purpose, self._now(), steps)
        await self._store.add_erasure(erasure)
        self._wake()
        return erasure

    async def get(self, tenant: str, erasure_id: str) -> Erasure:
        """Gives an erasure, or raises ResourceNotFound."""
        erasure = await self._store.find_erasure(tenant, erasure_id)
        if erasure is None:
            raise ResourceNotFound(erasure_name(tenant, erasure_id))
        return erasure

    async def list(self, tenant: str, requested: int, token: str) -> Page[Erasure]:
        """Gives a page of a tenant's erasures, the latest first.

        Raises:
            InvalidField: The size or the token can't be used.
        """
        return await read_page_by_time(
            (erasure_name(tenant, ""),),
            requested,
            token,
            lambda after, limit: self._store.list_erasures(tenant, after, limit),
            lambda erasure: erasure.create_time,
        )
