"""Puts what is wanted in place and has Skupper run on it, or puts back what was there."""

import asyncio
from collections.abc import Sequence

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper.resource import Resource
from redoma_provisioner.network.drivers.skupper_system import plan
from redoma_provisioner.network.drivers.skupper_system.controller import controller_runs
from redoma_provisioner.network.drivers.skupper_system.files import Change, Known, ResourceFiles
from redoma_provisioner.network.drivers.skupper_system.place import Place
from redoma_provisioner.network.drivers.skupper_system.router import Router


class Installer:
    """Makes the files of one namespace what is wanted, one call at a time."""

    def __init__(self, place: Place, files: ResourceFiles, router: Router) -> None:
        """Takes the namespace, its files and its router."""
        self._place = place
        self._files = files
        self._router = router
        self._taking_up: asyncio.Future[None] | None = None

    async def settled(self) -> None:
        """Waits until nothing is taken up any more whose caller did not wait for it."""
        if self._taking_up is not None:
            await asyncio.wait({self._taking_up})

    async def install(self, wanted: Sequence[Resource], known: Known) -> None:
        """Writes what differs; the router restarts only where Skupper runs on something else than is wanted.

        Raises:
            DriverRefused, DriverUnavailable: Skupper refused, or the router did not come up; the former files are back.
        """
        change = await asyncio.to_thread(self._files.write, wanted, known)
        pending = plan.not_taken_up(wanted, known, self._place.namespace)
        if pending or not known.started:
            mode_changes = known.started and any(kind == "Site" for kind, _ in pending)
            # A reload that is cut short leaves a namespace that can't be reloaded, so it outlives its caller.
            self._taking_up = asyncio.ensure_future(self._take_up(wanted, known, change, mode_changes))
            await asyncio.shield(self._taking_up)
        await asyncio.to_thread(self._files.drop_kept, known)
        await asyncio.to_thread(self._files.tighten)

    async def _take_up(self, wanted: Sequence[Resource], known: Known, change: Change, mode_changes: bool) -> None:
        async def is_taken_up() -> bool:
            seen = await asyncio.to_thread(self._files.read)
            return seen.started and not plan.not_taken_up(wanted, seen, self._place.namespace)

        was_up = await self._router.is_up()
        runs = await asyncio.to_thread(controller_runs, self._place.controller_lock)
        try:
            await self._router.take_up(
                started=known.started,
                controller_runs=runs is True,
                mode_changes=mode_changes,
                is_taken_up=is_taken_up,
            )
        except (DriverRefused, DriverUnavailable) as error:
            await asyncio.to_thread(self._files.undo, change)
            await self._recover(error, was_up)
            raise

    async def _recover(self, cause: Exception, was_up: bool) -> None:
        """Starts the router again on the former files, where the attempt has stopped it."""
        if not was_up or await self._router.is_up():
            return
        try:
            await self._router.recover()
        except (DriverRefused, DriverUnavailable) as error:
            raise DriverUnavailable(
                f"{cause} The former files are back, and the router did not come back with them: {error}"
            ) from cause
