"""The embedded driver behaves as every driver does, on real Envoys."""

import pytest

from tests.fakes.driver_suite import Case, cases
from tests.unit.provisioner.embedded.embedded_lab import ABILITIES, EmbeddedLab


@pytest.mark.parametrize("case", cases(*ABILITIES), ids=lambda case: case.__name__)
async def test_driver(case: Case) -> None:
    async with EmbeddedLab.opened() as lab:
        await case(lab)
