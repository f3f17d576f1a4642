"""What is said of a resource, from what its driver saw of it and from what kept the driver from seeing or making it."""

from dataclasses import replace

from redoma_provisioner.network.condition import CONFIGURED, Condition
from redoma_provisioner.network.driving import Observation

PENDING = "Pending"


def told(observation: Observation, seen: tuple[Condition, ...], types: tuple[str, ...]) -> tuple[Condition, ...]:
    """Gives what a driver saw of a resource, or why it saw nothing; what was refused is told in the driver's words."""
    if observation.absence is not None:
        return unknown(types, observation.absence.reason, observation.absence.message)
    if not seen:
        return unknown(types, PENDING, "It was not looked at yet; that takes a moment.")
    refusal = observation.refusal
    if refusal is None:
        return seen
    return tuple(
        replace(one, reason=refusal.reason, message=refusal.message)
        if one.type == CONFIGURED and one.holds is not True
        else one
        for one in seen
    )


def unknown(types: tuple[str, ...], reason: str, message: str) -> tuple[Condition, ...]:
    """Gives conditions of which nobody knows whether they hold."""
    return tuple(Condition(type_, None, reason, message) for type_ in types)
