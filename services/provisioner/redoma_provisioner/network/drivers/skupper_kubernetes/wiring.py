"""Puts the driver together from the settings."""

from collections.abc import Callable
from datetime import datetime

import structlog

from redoma_provisioner.network.drivers.skupper.probe import NetworkProbe
from redoma_provisioner.network.drivers.skupper_kubernetes.connection import connect
from redoma_provisioner.network.drivers.skupper_kubernetes.driver import Options, SkupperKubernetesDriver
from redoma_provisioner.settings import DriverSettings


def kubernetes_driver(
    settings: DriverSettings, site: str, now: Callable[[], datetime], log: structlog.stdlib.BoundLogger
) -> SkupperKubernetesDriver:
    """Makes the driver of a site: PUBLIC_SITE or a private one's id. The cluster is dialled when it is first used."""
    options = Options(port=settings.first_port, access_type=settings.access_type, owner=settings.owner)
    return SkupperKubernetesDriver(
        lambda: connect(settings.kubeconfig, settings.namespace), site, options, NetworkProbe(), now, log
    )
