"""Settings and states that snapshots are made of in tests."""

from pathlib import Path

from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.resources.edge import edge_snapshot
from redoma_provisioner.edge.resources.egress import egress_snapshot
from redoma_provisioner.edge.snapshot import Snapshot
from redoma_provisioner.edge.state import EgressState, Endpoint
from redoma_provisioner.network.driver import AdmittedSite
from redoma_provisioner.settings import EdgeSettings, EgressSettings, ProxySettings

FILES = ProxySettings(ca_file=Path("pki/ca.crt"), cert_file=Path("pki/tls.crt"), key_file=Path("pki/tls.key"))
AUTHORITIES = "PEM of the authorities"
SITES = (AdmittedSite("hospital-a", ("ab" * 32,)), AdmittedSite("hospital-b", ("cd" * 32,)))


def upstream(service: str, port: int) -> UpstreamSettings:
    """Gives a service of the public site."""
    return UpstreamSettings(target=f"127.0.0.1:{port}", server_name=f"{service}.public.redoma")


def edge_settings(tls: Path | None = None) -> EdgeSettings:
    """Gives the edge's settings."""
    return EdgeSettings(
        listen="127.0.0.1:8080",
        chat=upstream("chat", 1),
        tenant=upstream("tenant", 2),
        provisioner=upstream("provisioner", 3),
        egress=upstream("egress", 4),
        tls=tls,
    )


def an_edge(tls: Path | None = None) -> Snapshot:
    """Gives what an edge is served."""
    return edge_snapshot(edge_settings(tls), FILES, 600)


def an_egress(state: EgressState) -> Snapshot:
    """Gives what an egress is served."""
    settings = EgressSettings(listen="127.0.0.1:4", tunnels="127.0.0.1:8443")
    return egress_snapshot(settings, upstream("provisioner", 3), FILES, 600, AUTHORITIES, state)


def skupper(number: int, site: str = "hospital-a", tenant: str = "", priority: int = 0) -> Endpoint:
    """Gives a replica with an address of its own."""
    return Endpoint(f"{site}.model-{number}", site, "model", tenant, priority, f"127.0.0.1:{1000 + number}")


def tunnelled(number: int, site: str = "hospital-a", tenant: str = "", priority: int = 0) -> Endpoint:
    """Gives a replica behind its site's tunnels."""
    return Endpoint(f"{site}.model-{number}", site, "gateway", tenant, priority)


def busy() -> EgressState:
    """Gives a state that has something of everything."""
    return EgressState(
        replicas=(
            tunnelled(0),
            tunnelled(1, "hospital-b", priority=5),
            tunnelled(2, tenant="acme"),
            skupper(3, "hospital-c", priority=5),
        ),
        provisioners=(Endpoint("hospital-a.provisioner", "hospital-a", "gateway"),),
        tunnels=SITES,
    )
