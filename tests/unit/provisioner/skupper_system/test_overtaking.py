"""A first start may fetch an image and outlast whoever wanted it; nothing runs Skupper's CLI beside it."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from redoma_provisioner.network.drivers.skupper_system.process import Outcome
from tests.unit.provisioner.skupper_system.system_lab import PUBLIC, SystemLab
from tests.unit.provisioner.skupper_system.test_apply import HERE


class SlowLab(SystemLab):
    """A lab whose sites start when `fetched` is set."""

    def __init__(self, root: Path) -> None:
        """`root`: where its files lie."""
        super().__init__(root)
        self.begun, self.fetched = asyncio.Event(), asyncio.Event()
        self.starts = 0

    async def _run(self, arguments: Sequence[str], environment: Mapping[str, str], *, timeout_s: float) -> Outcome:
        is_start = arguments[1] == "system"
        if is_start:
            assert self.starts == 0, "two at once"
            self.starts += 1
            self.begun.set()
            await self.fetched.wait()
        outcome = await super()._run(arguments, environment, timeout_s=timeout_s)
        self.starts -= is_start
        return outcome


async def test_a_start_that_was_given_up_is_not_overtaken(tmp_path: Path) -> None:
    lab = SlowLab(tmp_path)
    driver = await lab.public()
    given_up = asyncio.create_task(driver.apply(HERE))
    await lab.begun.wait()
    given_up.cancel()
    again, closing = asyncio.create_task(driver.apply(HERE)), asyncio.create_task(driver.close())
    await asyncio.wait({again, closing}, timeout=0.05)
    assert not again.done()
    assert not closing.done()
    lab.fetched.set()
    await again
    await closing
    assert lab.tree(PUBLIC).restarts() == 1
