"""The behaviour suite of all drivers, on system sites."""

import pytest

from tests.fakes.driver_suite import Case, cases
from tests.unit.provisioner.skupper_system.system_lab import ABILITIES, SystemLab


@pytest.mark.parametrize("case", cases(*ABILITIES), ids=lambda case: case.__name__)
async def test_driver(case: Case, lab: SystemLab) -> None:
    await case(lab)
