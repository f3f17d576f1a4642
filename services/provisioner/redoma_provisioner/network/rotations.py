"""Gives a site new certificates, as an operation."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from redoma_provisioner.errors import StateConflict
from redoma_provisioner.network.site import Site, SiteState
from redoma_provisioner.operations.operation import Operation, Step
from redoma_provisioner.operations.operations import Operations
from redoma_provisioner.operations.progress import Progress
from redoma_provisioner.trust.names import site_name

KIND = "RotateCertificates"
SITE = "site"


class Rotator(Protocol):
    """What gives a site new certificates. It begins anew where it was left."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """What it does, in order."""
        ...

    async def rotate(self, site: str, begin: Callable[[int], Awaitable[None]]) -> None:
        """Does it; `begin` is awaited with the number of each step when that begins, and raises what ends it.

        Raises:
            SiteUnreachable: The site does not answer.
            StateConflict: It is not part of the network any more.
        """
        ...


class Rotations:
    """Begins rotations."""

    __slots__ = ("_operations", "_rotator")

    def __init__(self, operations: Operations, rotator: Rotator) -> None:
        self._operations = operations
        self._rotator = rotator

    async def begin(self, site: Site, creator: str) -> Operation:
        """Begins to rotate a site's certificates.

        Raises:
            StateConflict: It is not part of the network, or is being rotated already.
        """
        if site.state is not SiteState.JOINED:
            raise StateConflict(
                f"{site_name(site.id)} is not part of the network, so it has no certificates to rotate.",
                {"state": site.state.value},
            )
        return await self._operations.begin(KIND, site_name(site.id), {SITE: site.id}, self._rotator.steps, creator)


class RotationExecutor:
    """Runs them."""

    resumable = True

    __slots__ = ("_rotator",)

    def __init__(self, rotator: Rotator) -> None:
        self._rotator = rotator

    async def run(self, operation: Operation, progress: Progress) -> None:
        """See Executor."""
        await self._rotator.rotate(operation.arguments[SITE], progress.step)
