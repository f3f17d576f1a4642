"""The driver for Skupper on Kubernetes behaves as every driver does, on a real API server."""

import pytest

from tests.cluster.kubernetes_lab import ABILITIES, KubernetesLab
from tests.fakes.driver_suite import Case, a_site_no_longer_admitted_is_cut, cases, two_sites_are_apart

pytestmark = pytest.mark.cluster
# A link that Skupper's grant server let in can't be taken back one by one: see ADR 0028, and test_revocation.py for
# what holds in its place.
OTHERWISE = (a_site_no_longer_admitted_is_cut, two_sites_are_apart)


@pytest.mark.parametrize(
    "case", [case for case in cases(*ABILITIES) if case not in OTHERWISE], ids=lambda case: case.__name__
)
async def test_driver(case: Case, lab: KubernetesLab) -> None:
    await case(lab)
