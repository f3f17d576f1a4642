"""A whole site on free ports with a home of its own, so that a running one is left alone."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redoma.tenant.v1.api_key_pb2 import CreateApiKeyRequest
from redoma.tenant.v1.tenant_pb2 import CreateTenantRequest, Tenant
from redoma_cli.client import EdgeClient
from tests.e2e.conftest import Site, free_port, site_environment

CALL_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class BenchSite:
    """A running site and a key of each tenant."""

    site: Site
    keys: dict[str, str]


@contextmanager
def running_site(model: Path, tenants: Sequence[str] = (), **model_settings: object) -> Iterator[BenchSite]:
    """Starts a site and stops it at the end.

    Args:
        model: The GGUF file to serve.
        tenants: To be made besides the two of the demonstration, acme and globex.
        model_settings: Settings of the model service that differ from its defaults.
    """
    with tempfile.TemporaryDirectory(prefix="redoma-bench-", ignore_cleanup_errors=True) as folder:
        metrics_port = free_port()
        environment = site_environment(Path(folder)) | {"REDOMA_MODEL_METRICS__LISTEN": f"127.0.0.1:{metrics_port}"}
        environment["REDOMA_MODEL"] = str(model.resolve())
        environment |= {f"REDOMA_MODEL_{name.upper()}": str(value) for name, value in model_settings.items()}
        site = Site(Path(folder), environment, metrics_port)
        try:
            site.up()
            yield BenchSite(site, site.keys | {tenant: _make_tenant(site, tenant) for tenant in tenants})
        finally:
            site.redoma("down", "--grace", "5", check=False)


def _make_tenant(site: Site, tenant: str) -> str:
    """Makes a tenant and gives a key of it."""
    with EdgeClient(site.edge, site.admin_key) as client:
        client.tenants.CreateTenant(CreateTenantRequest(tenant_id=tenant, tenant=Tenant()), timeout=CALL_TIMEOUT_S)
        made = client.keys.CreateApiKey(CreateApiKeyRequest(parent=f"tenants/{tenant}"), timeout=CALL_TIMEOUT_S)
        return str(made.secret)
