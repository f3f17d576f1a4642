"""An egress that dials a model itself, as one behind a Skupper listener does: the same Envoy, and no VAN behind it."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redoma_cli.local.envoy import envoy_workers
from redoma_cli.local.pki import DevelopmentAuthority, server_name
from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.bootstrap import EGRESS
from redoma_provisioner.edge.publisher import EgressPublisher
from redoma_provisioner.edge.state import EgressState
from redoma_provisioner.settings import EgressSettings
from tests.bench.identities import proxy_files, tls_of
from tests.e2e.conftest import free_port
from tests.fakes.control_plane import ControlPlane, RealEnvoy, settings_of

MAX_STREAM_S = 600.0
PEER = "spiffe://redoma/public/egress"


@dataclass(frozen=True, slots=True)
class BareEgress:
    """A running egress with a control plane in this process.

    Attributes:
        services: Where chat would call it.
        control: Its control plane.
        publisher: Says what it leads to.
        envoy: Its process.
    """

    services: UpstreamSettings
    control: ControlPlane
    publisher: EgressPublisher
    envoy: RealEnvoy


@asynccontextmanager
async def bare_egress(
    authority: DevelopmentAuthority, state: EgressState, incremental: bool = True
) -> AsyncIterator[BareEgress]:
    """Starts an egress that leads to `state`, told what changes or, not `incremental`, everything each time."""
    async with AsyncExitStack() as stack:
        # Paths of Unix sockets are short.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdm-", ignore_cleanup_errors=True)))
        control_plane, listen, tunnels = (f"127.0.0.1:{free_port()}" for _ in range(3))
        itself = UpstreamSettings(target=control_plane, server_name=server_name("provisioner"))
        provisioner, files = tls_of(authority, "provisioner"), tls_of(authority, EGRESS)
        egress = EgressSettings(listen=listen, tunnels=tunnels)
        settings = settings_of(
            "public", control_plane, provisioner, {EGRESS: files}, egress=egress.model_dump(exclude_none=True)
        )
        control = await stack.enter_async_context(ControlPlane.serving(control_plane, provisioner, EGRESS, PEER))
        publisher = EgressPublisher(
            control.publisher, control.proxy, egress, itself, proxy_files(files), MAX_STREAM_S, files.ca_file
        )
        await publisher.publish(state, "the bench starts")
        workers = envoy_workers(os.cpu_count() or 1)
        envoy = RealEnvoy(folder, EGRESS, settings, workers, incremental=incremental)
        stack.push_async_callback(envoy.stop)
        await envoy.start()
        services = UpstreamSettings(target=listen, server_name=server_name(EGRESS))
        yield BareEgress(services, control, publisher, envoy)
