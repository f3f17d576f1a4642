"""Chooses what carries the network, by the settings."""

import os
from collections.abc import Callable
from datetime import datetime

import grpc
import structlog

from redoma_provisioner.errors import CannotStart
from redoma_provisioner.network.driver import DriverKind, DriverRefused, DriverUnavailable, NetworkDriver
from redoma_provisioner.network.drivers.embedded.admin import EnvoyAdmin
from redoma_provisioner.network.drivers.embedded.egress_calls import GrpcEgressCalls
from redoma_provisioner.network.drivers.embedded.link_probe import LinkProbe
from redoma_provisioner.network.drivers.embedded.private import EmbeddedPrivateDriver
from redoma_provisioner.network.drivers.embedded.public import EmbeddedPublicDriver
from redoma_provisioner.network.drivers.embedded.tunnel_count import EgressTunnels, GatewayTunnels
from redoma_provisioner.network.drivers.skupper_kubernetes.wiring import kubernetes_driver
from redoma_provisioner.network.drivers.skupper_system.wiring import system_driver
from redoma_provisioner.settings import ProvisionerSettings, ProxySettings
from redoma_provisioner.trust.keeper import KeptTrust
from redoma_provisioner.trust.membership_files import CA, CERTIFICATE, KEY, MembershipFiles
from redoma_provisioner.trust.names import GATEWAY, PUBLIC_SITE


def open_public_driver(
    settings: ProvisionerSettings,
    address: str,
    egress: grpc.aio.Channel,
    now: Callable[[], datetime],
    log: structlog.stdlib.BoundLogger,
) -> NetworkDriver:
    """Opens the public site's driver; `address` is where private sites join and link.

    Raises:
        CannotStart: The settings don't say what it needs.
    """
    if settings.driver.kind == DriverKind.EMBEDDED.value:
        socket = None if settings.egress is None else settings.egress.admin_socket
        tunnels = EgressTunnels(None if socket is None else EnvoyAdmin(socket))
        return EmbeddedPublicDriver(GrpcEgressCalls(egress), tunnels, address, log)
    return _skupper_driver(settings, PUBLIC_SITE, address, now, log)


def open_private_driver(
    settings: ProvisionerSettings, kept: KeptTrust, now: Callable[[], datetime], log: structlog.stdlib.BoundLogger
) -> NetworkDriver:
    """Opens the driver of a private site, which is one of those that link with what it joined.

    Raises:
        CannotStart: The settings don't say what it needs, or name another.
    """
    if kept.driver is DriverKind.EMBEDDED:
        return _gateway_driver(settings, kept, now)
    if not kept.driver.links_with(DriverKind(settings.driver.kind)):
        raise CannotStart(
            f'This site joined a network of the driver {kept.driver.value}; set driver.kind = "{kept.driver.value}".'
        )
    return _skupper_driver(settings, kept.site, None, now, log)


def _gateway_driver(settings: ProvisionerSettings, kept: KeptTrust, now: Callable[[], datetime]) -> NetworkDriver:
    socket = settings.gateway.admin_socket
    tunnels = GatewayTunnels(None if socket is None else EnvoyAdmin(socket))
    return EmbeddedPrivateDriver(tunnels, open_link_probe(settings, kept, now))


def open_link_probe(settings: ProvisionerSettings, kept: KeptTrust, now: Callable[[], datetime]) -> LinkProbe:
    """Gives what dials the public site as this private site's gateway does.

    Raises:
        CannotStart: The settings are not those of a private site.
    """
    if settings.membership_dir is None:
        raise CannotStart("The private role needs the setting membership_dir.")
    # The gateway's own paths to these may be others.
    identity = MembershipFiles(settings.membership_dir).current / GATEWAY
    files = ProxySettings(ca_file=identity / CA, cert_file=identity / CERTIFICATE, key_file=identity / KEY)
    return LinkProbe(files, kept.site, now)


def _skupper_driver(
    settings: ProvisionerSettings,
    site: str,
    join_address: str | None,
    now: Callable[[], datetime],
    log: structlog.stdlib.BoundLogger,
) -> NetworkDriver:
    if settings.driver.kind == DriverKind.SKUPPER_KUBERNETES.value:
        return kubernetes_driver(settings.driver, site, now, log)
    try:
        return system_driver(
            settings.driver, join_address=join_address, environ=os.environ, clock=lambda: now().timestamp()
        )
    except (DriverRefused, DriverUnavailable) as error:
        raise CannotStart(str(error)) from error
