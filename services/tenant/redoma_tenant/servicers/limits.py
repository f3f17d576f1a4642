"""Limits on the wire."""

from redoma.tenant.v1 import quota_pb2
from redoma_tenant.limits import AtLimit, Limits, limits_to_json

AT_LIMITS = {AtLimit.END: quota_pb2.AT_LIMIT_END, AtLimit.FINISH: quota_pb2.AT_LIMIT_FINISH}
AT_LIMITS_IN = {number: at_limit for at_limit, number in AT_LIMITS.items()}


def limits_in(message: quota_pb2.Limits) -> Limits:
    """Gives the limits in a request; what is absent is no limit."""
    return Limits(**{field.name: value for field, value in message.ListFields()})


def limits_message(limits: Limits) -> quota_pb2.Limits:
    """Gives limits as protobuf has them."""
    return quota_pb2.Limits(**limits_to_json(limits))
