"""Chooses what carries the network, by the settings."""

import os
import time

import grpc
import structlog

from redoma_provisioner.errors import CannotStart
from redoma_provisioner.network.driver import DriverKind, DriverRefused, DriverUnavailable, NetworkDriver
from redoma_provisioner.network.drivers.embedded.admin import EnvoyAdmin
from redoma_provisioner.network.drivers.embedded.egress_calls import GrpcEgressCalls
from redoma_provisioner.network.drivers.embedded.public import EmbeddedPublicDriver
from redoma_provisioner.network.drivers.embedded.tunnel_count import EgressTunnels
from redoma_provisioner.network.drivers.skupper_system.wiring import system_driver
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.trust.keeper import KeptTrust


def open_public_driver(
    settings: ProvisionerSettings, address: str, egress: grpc.aio.Channel, log: structlog.stdlib.BoundLogger
) -> NetworkDriver:
    """Opens the public site's driver; `address` is where private sites join and link.

    Raises:
        CannotStart: The settings don't say what it needs.
    """
    if settings.driver.kind == DriverKind.EMBEDDED.value:
        socket = None if settings.egress is None else settings.egress.admin_socket
        tunnels = EgressTunnels(None if socket is None else EnvoyAdmin(socket))
        return EmbeddedPublicDriver(GrpcEgressCalls(egress), tunnels, address, log)
    return _skupper_driver(settings, address)


def open_private_driver(
    settings: ProvisionerSettings, kept: KeptTrust, log: structlog.stdlib.BoundLogger
) -> NetworkDriver:
    """Opens the driver of a private site, which is the one that it joined with.

    Raises:
        CannotStart: The settings don't say what it needs, or name another.
    """
    if kept.driver is DriverKind.EMBEDDED:
        raise NotImplementedError
    if settings.driver.kind != kept.driver.value:
        raise CannotStart(
            f'This site joined a network of the driver {kept.driver.value}; set driver.kind = "{kept.driver.value}".'
        )
    return _skupper_driver(settings, None)


def _skupper_driver(settings: ProvisionerSettings, join_address: str | None) -> NetworkDriver:
    try:
        if settings.driver.kind == DriverKind.SKUPPER_SYSTEM.value:
            return system_driver(settings.driver, join_address=join_address, environ=os.environ, clock=time.time)
    except (DriverRefused, DriverUnavailable) as error:
        raise CannotStart(str(error)) from error
    raise CannotStart(f"driver.kind = {settings.driver.kind} carries no network.")
