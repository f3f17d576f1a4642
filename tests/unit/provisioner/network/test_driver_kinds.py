"""Which drivers' sites are one network: a public site on Kubernetes has private ones on Podman."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from redoma_provisioner import machine
from redoma_provisioner.drivers import open_private_driver
from redoma_provisioner.edge.resources import joining
from redoma_provisioner.errors import CannotStart, NetworkDriverRefused
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.policy import JOIN_MAX_S, PUBLIC_POLICY
from redoma_provisioner.settings import DriverSettings, ProvisionerSettings
from redoma_provisioner.trust import join_channel
from redoma_provisioner.trust.invitations import Invitations
from redoma_provisioner.trust.keeper import KeptTrust
from tests.fakes.network_driver import FakeDriver, FakeNetwork

EMBEDDED, CLUSTER, SYSTEM = DriverKind.EMBEDDED, DriverKind.SKUPPER_KUBERNETES, DriverKind.SKUPPER_SYSTEM
START = datetime(2026, 1, 2, tzinfo=UTC)
JOINED = KeptTrust("hospital-a", 1, START + timedelta(days=30), CLUSTER, "egress.example:8443")
LOG = structlog.get_logger()


def private_settings(tmp_path: Path, driver: DriverSettings) -> ProvisionerSettings:
    """Gives the settings of a private site."""
    return ProvisionerSettings.model_validate(
        {
            "role": "private",
            "listen": "127.0.0.1:1",
            "jwks_file": tmp_path / "jwks.json",
            "database_url": "sqlite+aiosqlite://",
            "tls": dict.fromkeys(("ca_file", "cert_file", "key_file"), tmp_path / "none"),
            "membership_dir": tmp_path,
            "link_file": tmp_path / "link.yaml",
            "driver": driver,
        }
    )


@pytest.mark.parametrize("kind", DriverKind)
def test_only_sites_of_skupper_link_with_those_of_another_driver(kind: DriverKind) -> None:
    others = {other for other in DriverKind if other is not kind and kind.links_with(other)}
    assert others == ({CLUSTER, SYSTEM} - {kind} if kind in (CLUSTER, SYSTEM) else set())


async def test_token_for_podman_is_redeemed_by_a_public_site_on_kubernetes() -> None:
    class OfCluster(FakeDriver):
        kind = CLUSTER

    invitations = Invitations(OfCluster(FakeNetwork(), "public"))
    assert await invitations.invite(SYSTEM, "hospital-a", 60.0)
    with pytest.raises(NetworkDriverRefused, match="embedded"):
        await invitations.invite(EMBEDDED, "hospital-a", 60.0)


def test_private_site_on_podman_starts_in_a_network_of_kubernetes(tmp_path: Path) -> None:
    system = DriverSettings(kind="skupper-system", platform="podman", data_home=tmp_path / "skupper")
    assert open_private_driver(private_settings(tmp_path, system), JOINED, lambda: START, LOG).kind is SYSTEM
    with pytest.raises(CannotStart, match="skupper-kubernetes"):
        open_private_driver(private_settings(tmp_path, DriverSettings()), JOINED, lambda: START, LOG)


def test_who_joins_waits_longer_than_who_answers() -> None:
    rule = PUBLIC_POLICY["/redoma.provisioner.v1.NetworkService/RedeemLinkGrant"]
    assert rule.max_s == JOIN_MAX_S < joining.REDEEM_TIMEOUT_S < join_channel.REDEEM_TIMEOUT_S
    assert joining.LONGEST_CONNECTION_S > joining.REDEEM_TIMEOUT_S


def test_link_file_reaches_joining_and_the_wait_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[object]()

    async def join(*arguments: object) -> int:
        given.extend(arguments)
        return 0

    (tmp_path / "link.yaml").write_text("kind: Link\n")
    monkeypatch.setattr(machine, "join", join)
    monkeypatch.setattr("sys.stdin", (tmp_path / "link.yaml").open())
    machine.joined(private_settings(tmp_path, DriverSettings()))
    assert given[-1] == "kind: Link\n"
