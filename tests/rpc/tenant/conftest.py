"""A tenant service for each test, on a database of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import TestPki
from tests.rpc.tenant.tenant_site import TenantSite


@pytest.fixture
async def site(pki: TestPki, tmp_path: Path) -> AsyncIterator[TenantSite]:
    """A running service with an empty database."""
    site = TenantSite(pki, tmp_path)
    await site.start()
    yield site
    await site.stop()
