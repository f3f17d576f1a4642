"""What carries the links, as a person chooses it, and a private site that Skupper links: it has no gateway."""

import json
from pathlib import Path

import pytest

from redoma_cli.errors import CliError
from redoma_cli.local.driver import EMBEDDED, Driver, DriverChoice, choose_driver
from redoma_cli.local.home import Home
from redoma_cli.local.membership import Failure, MembershipState
from redoma_cli.local.options import (
    SiteChoice,
    SiteOptions,
    Sites,
    choose_sites,
    planned_processes,
    read_choice,
    read_options,
    write_choice,
)
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.plan import ProcessSpec
from redoma_cli.local.private_site import prepare_private_site
from redoma_cli.local.public_site import prepare_public_site
from redoma_cli.local.standing import LINK_TIMEOUT_S, SKUPPER_LINK_TIMEOUT_S, LinkOfPrivate
from redoma_kit.settings import load_settings
from redoma_model.settings import ModelSettings
from redoma_provisioner.settings import ProvisionerSettings
from tests.unit.cli.joined import write_state
from tests.unit.cli.network_site import Network

SYSTEM = DriverChoice(Driver.SKUPPER_SYSTEM, (("namespace", "redoma"), ("platform", "podman")))
EGRESS = "spiffe://redoma/public/egress"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment with a model, an Envoy and Skupper's command line."""
    model = tmp_path / "own.gguf"
    model.write_bytes(b"GGUF")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("envoy", "skupper"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    return {"REDOMA_MODEL": str(model), "PATH": str(programs), "XDG_RUNTIME_DIR": "/run/user/7"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    home = Home(tmp_path / "home")
    home.create()
    home.private.create()
    return home


def options(environ: dict[str, str], home: Home, sites: Sites, driver: DriverChoice = SYSTEM) -> SiteOptions:
    """Gives what a person chose."""
    return read_options(environ, home, None, SiteChoice(sites, "public.example:8443", driver))


def private_specs(environ: dict[str, str], home: Home) -> dict[str, ProcessSpec]:
    """Configures a private site over Skupper."""
    chosen = options(environ, home, Sites.PRIVATE)
    assert chosen.weights is not None
    specs = prepare_private_site(home, chosen, chosen.weights, environ, "hospital-a", _no_bootstrap)
    return {spec.name: spec for spec in specs}


def _no_bootstrap(proxy: str) -> Path:
    raise AssertionError(f"{proxy} has a bootstrap")


def test_what_is_said_goes_before_what_was_kept_and_that_before_what_is_usual() -> None:
    assert choose_driver(None, None, {}) == EMBEDDED
    assert choose_driver(None, Driver.SKUPPER_SYSTEM, {}) == SYSTEM
    said = choose_driver(SYSTEM, None, {"REDOMA_SKUPPER_NAMESPACE": "other", "REDOMA_SKUPPER_PLATFORM": ""})
    assert said.table == {"kind": "skupper-system", "namespace": "other", "platform": "podman"}
    assert choose_driver(said, None, {}) == said
    assert choose_driver(said, Driver.SKUPPER_KUBERNETES, {}).table == {"kind": "skupper-kubernetes"}
    assert choose_driver(said, Driver.EMBEDDED, {"REDOMA_SKUPPER_NAMESPACE": "other"}) == EMBEDDED
    with pytest.raises(CliError, match="no platform") as told:
        choose_driver(None, Driver.SKUPPER_SYSTEM, {"REDOMA_SKUPPER_PLATFORM": "kubernetes"})
    assert "podman, docker, linux" in told.value.mend


def test_driver_is_kept_and_a_file_without_one_is_read(home: Home) -> None:
    choice = SiteChoice(Sites.PRIVATE, "", SYSTEM)
    write_choice(home, choice)
    assert read_choice(home) == choice
    (home.config / "sites.json").write_text(json.dumps({"sites": "private", "van_address": ""}))
    assert read_choice(home) == SiteChoice(Sites.PRIVATE)
    for broken in ({"kind": "pigeon"}, {}, "pigeon"):
        (home.config / "sites.json").write_text(json.dumps({"sites": "both", "van_address": "", "driver": broken}))
        assert read_choice(home) is None


def test_what_a_driver_can_not_do_is_refused_with_what_does(environ: dict[str, str], home: Home) -> None:
    with pytest.raises(CliError, match="links two machines") as told:
        choose_sites(None, None, "", 8443, driver=SYSTEM)
    assert "--site public" in told.value.mend
    with pytest.raises(CliError, match="loopback") as told:
        choose_sites(None, Sites.PRIVATE, "", 8443, driver=DriverChoice(Driver.SKUPPER_KUBERNETES))
    assert "--driver skupper-system" in told.value.mend
    (Path(environ["PATH"]) / "skupper").unlink()
    with pytest.raises(CliError, match="not on the PATH") as told:
        options(environ, home, Sites.PUBLIC)
    assert "2.2.1" in told.value.mend


def test_private_site_listens_on_the_same_loopback_ports_each_time(environ: dict[str, str], home: Home) -> None:
    specs = private_specs(environ, home)
    assert set(specs) == {"model", "private-provisioner"}
    model = load_settings(ModelSettings, home.private.config / "model.toml")
    provisioner = load_settings(ProvisionerSettings, home.private.config / "provisioner.toml")
    assert model.forwarders == provisioner.forwarders == (EGRESS,)
    assert model.listen.startswith("127.0.0.1:")
    targets = {one.service: one.target for one in provisioner.exposed}
    assert targets == {"model": model.listen, "provisioner": provisioner.listen}
    assert (provisioner.driver.kind, provisioner.driver.platform) == ("skupper-system", "podman")
    assert provisioner.proxies == {}
    again = private_specs(environ, home)
    assert {name: spec.fingerprint for name, spec in again.items()} == {
        name: spec.fingerprint for name, spec in specs.items()
    }


def test_skuppers_own_environment_reaches_the_provisioner_alone(environ: dict[str, str], home: Home) -> None:
    specs = private_specs(environ, home)
    assert specs["private-provisioner"].env["XDG_RUNTIME_DIR"] == "/run/user/7"
    assert "XDG_RUNTIME_DIR" not in specs["model"].env


def test_public_site_tells_its_provisioner_of_the_driver(environ: dict[str, str], home: Home) -> None:
    environ["REDOMA_SKUPPER_DATA_HOME"] = "/srv/skupper"
    driver = choose_driver(None, Driver.SKUPPER_SYSTEM, environ)
    bootstrap = home.config / "envoy.json"
    bootstrap.write_text("{}")
    authority = DevelopmentAuthority(home.pki)
    prepare_public_site(
        home, options(environ, home, Sites.PUBLIC, driver), environ, authority, "rdm_" + "a" * 30, lambda _: bootstrap
    )
    settings = load_settings(ProvisionerSettings, home.config / "provisioner.toml")
    assert (settings.driver.kind, settings.driver.namespace) == ("skupper-system", "redoma")
    assert settings.driver.data_home == Path("/srv/skupper")


def test_private_site_without_a_gateway_is_shown_without_one(network: Network) -> None:
    choice = SiteChoice(Sites.PRIVATE, "", SYSTEM)
    assert "gateway" in planned_processes(SiteChoice(Sites.PRIVATE))
    assert "gateway" not in planned_processes(choice)
    write_choice(network.home, choice)
    error = {"reason": "RouterDown", "message": "Skupper's router does not run.", "mend": ""}
    write_state(network.home, "JOINED", "hospital-a", driver="skupper-system", error=error)
    assert "gateway" not in network.run("status", is_local=True).stdout
    said = " ".join(network.run("doctor", is_local=True).stdout.split())
    assert "gateway" not in said
    assert "Skupper's router does not run." in said or "does not run" in said


def test_link_that_skupper_makes_is_waited_for_longer_and_told_about() -> None:
    now, told = [0.0], list[str]()
    down = Failure("RouterDown", "Skupper's router does not run.", "")
    link = LinkOfPrivate(
        lambda: MembershipState("JOINED", "hospital-a", error=down),
        lambda: now[0],
        SKUPPER_LINK_TIMEOUT_S,
        told.append,
    )
    assert not link()
    now[0] = LINK_TIMEOUT_S + 1
    assert not link()
    assert told == ["Skupper's router does not run."]
    now[0] = SKUPPER_LINK_TIMEOUT_S
    with pytest.raises(CliError, match="router does not run"):
        link()
