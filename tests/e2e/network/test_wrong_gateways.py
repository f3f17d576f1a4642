"""Nobody links who is not the site that it says it is: another site, another authority, a revoked one, a forged id."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from redoma_kit.envoy_process import CUT_AT_ONCE
from redoma_kit.settings import TlsSettings
from redoma_provisioner.edge.resources.gateway import gateway_snapshot
from redoma_provisioner.edge.snapshot import CLUSTER, LISTENER, ROUTES, SECRET
from redoma_provisioner.edge.state import GatewayState
from redoma_provisioner.network.drivers.embedded.admin import AdminAway, EnvoyAdmin
from redoma_provisioner.network.drivers.embedded.tunnel_count import EgressTunnels, GatewayTunnels
from redoma_provisioner.settings import ProxySettings
from redoma_provisioner.trust.authority import load_authority
from tests.e2e.network.conftest import GUEST, Van
from tests.e2e.network.namespaces import PUBLIC
from tests.e2e.network.processes import Process
from tests.e2e.network.sites import ENVOY, VAN_PORT
from tests.e2e.network.streams import ask
from tests.fakes.trust_parties import identity_files, make_authority

ADDRESS = f"{PUBLIC}:{VAN_PORT}"
TRIES = 4
CUT_S = 2.0


def files_of(tls: TlsSettings) -> ProxySettings:
    """Gives the same files as an Envoy's."""
    return ProxySettings.model_validate(tls.model_dump())


def static(value: Any, routes: Mapping[str, Any]) -> Any:
    """Gives a resource as it stands where there is no control plane."""
    if isinstance(value, dict):
        if "rds" in value:
            value = {**value, "route_config": routes[value["rds"]["route_config_name"]]}
        return {key: static(inner, routes) for key, inner in value.items() if key not in ("rds", "sds_config")}
    return [static(inner, routes) for inner in value] if isinstance(value, list) else value


@contextmanager
def rogue(van: Van, folder: Path, files: ProxySettings, site: str, node: str = "") -> Iterator[GatewayTunnels]:
    """Runs a gateway that says it is `site`, and in the tunnel itself that it is `node`, with any identity."""
    snapshot = gateway_snapshot(files, GatewayState(site, ADDRESS), 60.0)
    routes = snapshot.of(ROUTES)
    resources = {
        key: [static(one, routes) for one in snapshot.of(kind).values()]
        for key, kind in (("secrets", SECRET), ("clusters", CLUSTER), ("listeners", LISTENER))
    }
    text = json.dumps({**json.loads((van.a.folder / "gateway.json").read_text()), "static_resources": resources})
    config = json.loads(text.replace(f"rc://{site}:{site}:", f"rc://{node or site}:{node or site}:"))
    del config["dynamic_resources"]
    (folder / "rogue.json").write_text(json.dumps(config))
    options = ["--concurrency", "1", *CUT_AT_ONCE, "--disable-hot-restart", "-l", "warning"]
    process = Process(
        "rogue", van.network.inside(van.network.site(GUEST), [str(ENVOY), "-c", "rogue.json", *options]), folder
    )
    process.start()
    try:
        yield GatewayTunnels(EnvoyAdmin(folder / "gateway-admin.sock"))
    finally:
        process.kill()


def another_site(van: Van, folder: Path) -> tuple[ProxySettings, str]:
    """The certificate of the second site, for tunnels of the first."""
    return files_of(van.b.identity("gateway")), van.a.name


def another_authority(van: Van, folder: Path) -> tuple[ProxySettings, str]:
    """A certificate with the first site's name, by an authority of one's own."""
    files = identity_files(make_authority(folder / "authority", _now), folder / "id", van.a.name, "gateway")
    shutil.copy(van.a.identity("gateway").ca_file, files.ca_file)
    return files_of(files), van.a.name


def another_service(van: Van, folder: Path) -> tuple[ProxySettings, str]:
    """The certificate of the first site's model, which is no gateway."""
    return files_of(van.a.identity("model")), van.a.name


def an_older_certificate(van: Van, folder: Path) -> tuple[ProxySettings, str]:
    """A certificate for the first site's gateway, by the right authority, that the public site does not know of."""
    make_authority(folder / "authority", _now)
    shutil.copy(van.pki.authority.certificate, folder / "authority" / "ca.crt")
    shutil.copy(van.pki.authority.key, folder / "authority" / "ca.key")
    authority = load_authority(folder / "authority" / "ca.crt", folder / "authority" / "ca.key", 3600.0, _now)
    return files_of(identity_files(authority, folder / "id", van.a.name, "gateway")), van.a.name


def _now() -> datetime:
    return datetime.now(UTC)


Rogue = Callable[[Van, Path], tuple[ProxySettings, str]]


async def links_never(van: Van, tunnels: GatewayTunnels, folder: Path) -> None:
    """Waits until a rogue gateway was refused several times, and checks that it never had a tunnel."""
    admin = EnvoyAdmin(folder / "gateway-admin.sock")
    deadline = time.monotonic() + 20
    while True:
        try:
            failed = await admin.stats(r"^tunnels\.worker_0\.cluster\.egress\.failed$|handshake.*failed")
        except AdminAway:
            failed = {}
        if sum(failed.values()) >= TRIES:
            break
        assert time.monotonic() < deadline, failed
        await asyncio.sleep(0.05)
    assert await tunnels.up() == 0


@pytest.mark.parametrize("make", [another_site, another_authority, another_service, an_older_certificate])
async def test_a_certificate_that_is_not_the_sites_own(
    van: Van, calls: grpc.aio.Channel, tmp_path: Path, make: Rogue
) -> None:
    files, site = make(van, tmp_path)
    before = await EgressTunnels(EnvoyAdmin(van.public.egress_admin)).by_site()
    with rogue(van, tmp_path, files, site) as tunnels:
        await links_never(van, tunnels, tmp_path)
        answers = [await ask(calls, van.pki, van.a.model_key) for _ in range(20)]
        assert {answer.model for answer in answers} == {f"model-of-{van.a.name}"}
        assert await EgressTunnels(EnvoyAdmin(van.public.egress_admin)).by_site() == before


async def test_a_forged_node_id(van: Van, calls: grpc.aio.Channel, tmp_path: Path) -> None:
    """A site that is a member, with its own certificate, takes no call of another's."""
    with rogue(van, tmp_path, files_of(van.b.identity("gateway")), van.b.name, node=van.a.name) as tunnels:
        await links_never(van, tunnels, tmp_path)
        answers = [await ask(calls, van.pki, van.a.model_key) for _ in range(20)]
        assert {answer.model for answer in answers} == {f"model-of-{van.a.name}"}
