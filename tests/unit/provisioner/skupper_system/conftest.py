"""A lab for each test."""

from pathlib import Path

import pytest

from tests.unit.provisioner.skupper_system.system_lab import SystemLab, system_controller


@pytest.fixture
async def lab(tmp_path: Path):  # type: ignore[no-untyped-def]  # an async generator's fixture
    """A public and a private machine, each with a system controller that reloads on command only."""
    made = SystemLab(tmp_path)
    async with (
        system_controller(made, "public", automatic=False),
        system_controller(made, "hospital-a", automatic=False),
        system_controller(made, "hospital-b", automatic=False),
    ):
        yield made
