"""The router of one site: whether it runs, and having it take up what was written without a needless restart."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper.probe import Probe
from redoma_provisioner.network.drivers.skupper_system.cli import SkupperCli
from redoma_provisioner.network.drivers.skupper_system.place import Place
from redoma_provisioner.network.drivers.skupper_system.ports import router_port

LOOPBACK = "127.0.0.1"
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds.

    Attributes:
        pick_up_s: For a system controller that reloads by itself to have taken up a change.
        up_s: For a router to listen again after a restart, which takes 5 s.
    """

    pick_up_s: float = 5.0
    up_s: float = 30.0


class Router:
    """The router of one namespace."""

    def __init__(self, place: Place, platform: str, cli: SkupperCli, probe: Probe, patience: Patience) -> None:
        """`platform`: podman, docker or linux."""
        self._place = place
        self._platform = platform
        self._cli = cli
        self._probe = probe
        self._patience = patience
        self._picks_up = platform != "linux"

    async def is_up(self) -> bool:
        """Tells whether the router listens."""
        port = await asyncio.to_thread(router_port, self._place.router_config)
        return port is not None and await self._probe.opens(LOOPBACK, port)

    async def take_up(
        self, *, started: bool, controller_runs: bool, mode_changes: bool, is_taken_up: Callable[[], Awaitable[bool]]
    ) -> None:
        """Has what lies in the input take effect: by the controller where it does so itself, else by a restart.

        Args:
            started: Whether the site was ever started, be it half.
            controller_runs: Whether a system controller runs.
            mode_changes: Whether it takes a restart whatever the controller does.
            is_taken_up: Tells whether Skupper runs on the input.

        Raises:
            DriverRefused, DriverUnavailable: Skupper refused, or the router did not come up.
        """
        if controller_runs and self._picks_up and not mode_changes:
            if await self._comes_true(is_taken_up, self._patience.pick_up_s):
                await self._be_up()
                return
            # It reloads on command only, as it does unless it was installed with --reload-type auto.
            self._picks_up = not started
        # A controller that picks up may have started the site meanwhile.
        if started or await asyncio.to_thread(self._place.runtime.is_dir):
            await self._cli.reload()
        else:
            await self._start()
        await self._be_up()

    async def recover(self) -> None:
        """Restarts the router on what lies in the input now."""
        await self._cli.reload()
        await self._be_up()

    async def _be_up(self) -> None:
        if not await self._comes_true(self.is_up, self._patience.up_s):
            raise DriverUnavailable(
                f"Skupper's router did not come up within {self._patience.up_s:g} s. {self.how_to_start()}"
            )

    async def _start(self) -> None:
        """Starts the site; a controller that does so at the same time is not in the way."""
        try:
            await self._cli.start()
        except DriverRefused as error:
            if "already exists" not in str(error):
                raise

    def how_to_start(self) -> str:
        """Gives the sentences on starting the router, and on mending a start that failed half way."""
        namespace = self._place.namespace
        starts = {
            "linux": f"systemctl --user start skupper-{namespace}.service (as root without --user)",
            "podman": f"podman start {namespace}-skupper-router",
            "docker": f"docker start {namespace}-skupper-router",
        }
        return (
            f"Start it: {starts[self._platform]}. "
            f"After a start that failed half way: skupper system reload -n {namespace} -p {self._platform}."
        )

    def how_to_read_log(self) -> str:
        """Gives the command that shows the router's log."""
        namespace = self._place.namespace
        if self._platform == "linux":
            return f"journalctl --user -u skupper-{namespace}.service"
        return f"{self._platform} logs {namespace}-skupper-router"

    def how_to_run_controller(self) -> str:
        """Gives what starts the system controller."""
        if self._platform == "linux":
            return "run Skupper's system-controller as this user"
        return f"skupper system install -p {self._platform} --reload-type auto"

    async def _comes_true(self, check: Callable[[], Awaitable[bool]], limit_s: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while not await check():
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True
