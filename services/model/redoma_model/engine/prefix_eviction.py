"""Whose cached prefixes make room: the rule that keeps one tenant from evicting all others.

A tenant's share is its weight over the weights of all that hold cache. Room is made by the tenant furthest above its
share, which is the one that holds most per unit of weight, and within it by the leaf that was not used for longest. A
tenant below its share gives nothing as long as one above it has anything to give. The same rule holds for KV cells,
for sequence ids and for bytes of the host tier; only what is counted differs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from redoma_model.engine.prefix_tree import Node


@dataclass(frozen=True, slots=True)
class Victim:
    """What goes next.

    Attributes:
        node: A leaf that no lease holds.
        level: What its tenant holds per unit of weight.
        surplus: How much of it its tenant holds above the level of the next tenant.
    """

    node: Node
    level: float
    surplus: float


def choose_victim(
    nodes: Iterable[Node], size: Callable[[Node], int], weights: Mapping[str, int], wanted_by: str | None = None
) -> Victim | None:
    """Chooses the leaf that makes room.

    Args:
        nodes: All of one tier.
        size: What a node takes of the scarce thing.
        weights: Of the tenants.
        wanted_by: The tenant the room is for: between equals it gives first.

    Returns:
        None when leases hold everything.
    """
    held: dict[str, int] = {}
    oldest: dict[str, Node] = {}
    for node in nodes:
        tenant = node.partition.tenant
        held[tenant] = held.get(tenant, 0) + size(node)
        if node.evictable and (tenant not in oldest or node.used_at < oldest[tenant].used_at):
            oldest[tenant] = node
    ranked = sorted(((held[tenant] / weights[tenant], tenant == wanted_by, tenant) for tenant in oldest), reverse=True)
    if not ranked:
        return None
    level, _, tenant = ranked[0]
    next_level = ranked[1][0] if len(ranked) > 1 else 0.0
    return Victim(oldest[tenant], level, (level - next_level) * weights[tenant])
