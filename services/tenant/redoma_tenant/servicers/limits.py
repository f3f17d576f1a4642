"""Limits on the wire."""

from collections.abc import Mapping

from redoma.tenant.v1 import quota_pb2
from redoma_kit.errors import InvalidField
from redoma_tenant.limits import AtLimit, Limits, limits_to_json

AT_LIMITS = {AtLimit.END: quota_pb2.AT_LIMIT_END, AtLimit.FINISH: quota_pb2.AT_LIMIT_FINISH}
AT_LIMITS_IN: Mapping[int, AtLimit] = {number: at_limit for at_limit, number in AT_LIMITS.items()}


def at_limit_in(field: str, number: int) -> AtLimit | None:
    """Gives what becomes of running answers at a limit; None where the request does not say.

    Raises:
        InvalidField: It says something that is not known.
    """
    if number != quota_pb2.AT_LIMIT_UNSPECIFIED and number not in AT_LIMITS_IN:
        raise InvalidField(field, "must be AT_LIMIT_END or AT_LIMIT_FINISH.")
    return AT_LIMITS_IN.get(number)


def limits_in(message: quota_pb2.Limits) -> Limits:
    """Gives the limits in a request; what is absent is no limit."""
    return Limits(**{field.name: value for field, value in message.ListFields()})


def limits_message(limits: Limits) -> quota_pb2.Limits:
    """Gives limits as protobuf has them."""
    return quota_pb2.Limits(**limits_to_json(limits))
