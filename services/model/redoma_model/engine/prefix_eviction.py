"""Whose cached prefixes make room: the rule that keeps one tenant from evicting all others.

A tenant's share is its weight over the weights of all that hold cache. Room is made by the tenant furthest above its
share, which is the one that holds most per unit of weight, and within it by the leaf that was not used for longest. A
tenant below its share gives nothing as long as one above it has anything to give. The same rule holds for KV cells,
for sequence ids and for bytes of the host tier; only what is counted differs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from redoma_model.engine.prefix_tree import Node


@dataclass(frozen=True, slots=True)
class Victim:
    """What goes next.

    Attributes:
        node: A leaf that no lease holds.
        level: What its tenant holds per unit of weight.
        surplus: How much of it its tenant gives when the richest come down to one level.
    """

    node: Node
    level: float
    surplus: float


def choose_victim(
    nodes: Iterable[Node],
    size: Callable[[Node], int],
    weights: Mapping[str, int],
    needed: int = 1,
    wanted_by: str | None = None,
) -> Victim | None:
    """Chooses the leaf that makes room.

    Args:
        nodes: All of one tier.
        size: What a node takes of the scarce thing.
        weights: Of the tenants.
        needed: How much room is wanted.
        wanted_by: The tenant the room is for: between equals it gives first.

    Returns:
        None when leases hold everything.
    """
    held: dict[str, int] = {}
    oldest: dict[str, Node] = {}
    for node in nodes:
        tenant = node.partition.tenant
        held[tenant] = held.get(tenant, 0) + size(node)
        if (tenant not in oldest or node.used_at < oldest[tenant].used_at) and node.evictable:
            oldest[tenant] = node
    if not oldest:
        return None
    ranked = sorted(oldest, key=lambda tenant: (held[tenant] / weights[tenant], tenant == wanted_by), reverse=True)
    richest = ranked[0]
    level = _common_level([(held[tenant], weights[tenant]) for tenant in ranked], needed)
    return Victim(oldest[richest], held[richest] / weights[richest], held[richest] - level * weights[richest])


def _common_level(ranked: Sequence[tuple[int, int]], needed: int) -> float:
    """Gives the level that tenants above it come down to, when together they give what is needed.

    `ranked` has what each holds and its weight, the richest first.
    """
    held, weight = ranked[0]
    for more, by in ranked[1:]:
        if (held - needed) / weight >= more / by:
            break
        held, weight = held + more, weight + by
    return (held - needed) / weight
