"""Puts the driver together from settings and this process's surroundings."""

import os
import secrets
from collections.abc import Callable, Mapping
from functools import partial

import yaml

from redoma_provisioner.network.driver import DriverRefused
from redoma_provisioner.network.drivers.skupper.name import split_address
from redoma_provisioner.network.drivers.skupper.probe import NetworkProbe, Probe
from redoma_provisioner.network.drivers.skupper.redemption import GrantServer, Redeemer
from redoma_provisioner.network.drivers.skupper_system.access import LinkAccess
from redoma_provisioner.network.drivers.skupper_system.cli import CliLimits, SkupperCli
from redoma_provisioner.network.drivers.skupper_system.driver import SkupperSystemDriver
from redoma_provisioner.network.drivers.skupper_system.files import ResourceFiles
from redoma_provisioner.network.drivers.skupper_system.installer import Installer
from redoma_provisioner.network.drivers.skupper_system.observer import Observer
from redoma_provisioner.network.drivers.skupper_system.place import PLATFORMS, Place, find_place
from redoma_provisioner.network.drivers.skupper_system.process import RunProgram, run_program
from redoma_provisioner.network.drivers.skupper_system.router import Patience, Router
from redoma_provisioner.network.drivers.skupper_system.site import SystemSite
from redoma_provisioner.network.drivers.skupper_system.watch import POLL_S, Watch
from redoma_provisioner.settings import DriverSettings

DEFAULT_NAMESPACE = "default"
EXECUTABLE = "skupper"


def system_driver(
    settings: DriverSettings,
    *,
    join_address: str | None,
    environ: Mapping[str, str],
    clock: Callable[[], float],
    executable: str = EXECUTABLE,
    probe: Probe | None = None,
    redeemer: Redeemer | None = None,
    patience: Patience | None = None,
    limits: CliLimits | None = None,
    run: RunProgram = run_program,
    poll_s: float = POLL_S,
) -> SkupperSystemDriver:
    """Makes the driver of this machine's site.

    Args:
        settings: What carries the network.
        join_address: host:port that private sites dial, whose host is that of their links too; None on a private site.
        environ: This process's environment, of which Skupper's CLI gets the part that it reads.
        clock: Seconds since the epoch.
        executable: Skupper's CLI.
        probe: Connects.
        redeemer: Redeems access tokens.
        patience: How long to wait for Skupper.
        limits: How long its commands may take.
        run: Runs programs.
        poll_s: How often files are looked at, in seconds.

    Raises:
        DriverRefused: The settings don't say what is needed.
    """
    place = find_place(settings.data_home, settings.namespace or DEFAULT_NAMESPACE, environ, os.getuid())
    platform = find_platform(settings.platform, place, environ)
    base = str(place.data_home.parent) if settings.data_home is not None else None
    access = LinkAccess(split_address(join_address, "The join address")[0]) if join_address is not None else None
    site = SystemSite(place, settings.listen_host, settings.first_port, access)
    cli = SkupperCli(executable, place.namespace, platform, environ, data_base=base, limits=limits, run=run)
    probe = probe or NetworkProbe()
    router = Router(place, platform, cli, probe, patience or Patience())
    files = ResourceFiles(place)
    return SkupperSystemDriver(
        site,
        files,
        cli,
        Installer(place, files, router),
        Observer(site, cli, router, probe),
        redeemer or GrantServer(),
        Watch(place, poll_s),
        clock,
        partial(secrets.token_hex, 4),
    )


def find_platform(wanted: str, place: Place, environ: Mapping[str, str]) -> str:
    """Gives the platform: what is set, what the namespace was started on, or what the environment says.

    Raises:
        DriverRefused: Nothing says it; Skupper would take it for Kubernetes, do nothing, and call that success.
    """
    started_on = ""
    try:
        document = yaml.safe_load(place.platform_file.read_text())
        started_on = str(document.get("platform", "")) if isinstance(document, dict) else ""
    except (OSError, yaml.YAMLError):
        pass
    for platform in (wanted, started_on, environ.get("SKUPPER_PLATFORM", "")):
        if platform in PLATFORMS:
            return platform
    raise DriverRefused("Which platform Skupper runs on is not set. Set driver.platform to podman, docker or linux.")
