"""Drivers on the wire."""

from redoma.provisioner.v1 import site_pb2
from redoma_kit.errors import InvalidField
from redoma_provisioner.network.driver import DriverKind

DRIVERS = {
    DriverKind.EMBEDDED: site_pb2.DRIVER_EMBEDDED,
    DriverKind.SKUPPER_KUBERNETES: site_pb2.DRIVER_SKUPPER_KUBERNETES,
    DriverKind.SKUPPER_SYSTEM: site_pb2.DRIVER_SKUPPER_SYSTEM,
    DriverKind.FAKE: site_pb2.DRIVER_FAKE,
}
KINDS = {message: kind for kind, message in DRIVERS.items()}


def driver_in(field: str, driver: "site_pb2.Driver.ValueType") -> DriverKind | None:
    """Gives the driver in a request's field; None where it is unset.

    Raises:
        InvalidField: It is one that this release does not know.
    """
    if driver == site_pb2.DRIVER_UNSPECIFIED:
        return None
    if driver not in KINDS:
        raise InvalidField(field, "is not a driver that is known here.")
    return KINDS[driver]
