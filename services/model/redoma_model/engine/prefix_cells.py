"""Where the nodes of cached prefixes have their cells: sequence ids of the KV cache, the host tier, and room in both.

Ids are scarcer than cells (llama.cpp tells 256 sequences apart), so chains of nodes are joined before anything is
evicted for an id.
"""

from collections.abc import Iterable, Sequence

from redoma_model.engine.cells import CellStore, OutOfCells
from redoma_model.engine.prefix_eviction import choose_victim
from redoma_model.engine.prefix_tree import BLOCK_TOKENS, NO_ID, Node


class PrefixCells:
    """Keeps the cells of nodes. It sees to it that each resident node has exactly its own under its id."""

    def __init__(self, store: CellStore, ids: Iterable[int], host_bytes: int) -> None:
        """Makes it with no node.

        Args:
            store: The KV cells.
            ids: Sequences of the KV cache that are the cache's to use.
            host_bytes: Most host memory for copies of evicted prefixes; 0 keeps none.
        """
        self._store = store
        self._ids = frozenset(ids)
        self._free_ids = sorted(self._ids, reverse=True)
        self._host_budget_bytes = host_bytes
        self._saved: set[Node] = set()
        self._resident: dict[int, Node] = {}
        # By tenant; all that have nodes are in it.
        self.weights: dict[str, int] = {}

    @property
    def resident(self) -> Iterable[Node]:
        """The nodes with cells in the KV cache."""
        return self._resident.values()

    @property
    def ids(self) -> Iterable[int]:
        """The sequences of the KV cache that have those cells."""
        return self._resident

    @property
    def host_bytes(self) -> int:
        """Host memory of evicted prefixes."""
        return sum(map(_saved_bytes, self._saved))

    @property
    def free_ids(self) -> int:
        """How many more nodes could be resident."""
        return len(self._free_ids)

    def share(self, node: Node, slot: int, begin: int, end: int) -> None:
        """Lets a slot share what the node and those above it have of the cells from `begin` to before `end`."""
        for part in node.path():
            first, last = max(begin, part.begin), min(end, part.end)
            if first < last:
                self._store.share(part.id, slot, first, last)

    def fill(self, node: Node, slot: int) -> None:
        """Makes a node resident with cells that a slot computed. An id must be free."""
        self._settle(node)
        self._store.share(slot, node.id, node.begin, node.end)

    def grow(self, node: Node, tokens: Sequence[int], slot: int) -> None:
        """Adds tokens that a slot computed to the run of a resident node without children."""
        end = node.end + len(tokens)
        self._store.share(slot, node.id, node.end, end)
        node.tokens += tuple(tokens)

    def split(self, node: Node, position: int) -> Node:
        """Splits a resident node and gives its head; the node keeps the tail. An id must be free."""
        head = node.split(position)
        head.id, node.id = node.id, NO_ID
        self._resident[head.id] = head
        self.fill(node, head.id)
        self._store.forget(head.id, node.begin, node.end)
        return head

    def restore(self, node: Node) -> bool:
        """Brings a saved node back to the KV cache; False when it has no room for it. An id must be free."""
        if node.saved is None:
            return False
        try:
            self._store.restore(self._free_ids[-1], node.saved)
        except OutOfCells:
            return False
        self._settle(node)
        return True

    def drop(self, node: Node) -> None:
        """Takes a node that no lease holds, and all below it, out of its tree."""
        node.detach()
        for below in node.subtree():
            if below.resident:
                self._free(below)
            self._saved.discard(below)
            below.saved = None

    def evict(self, cells: int, tenant: str | None) -> int:
        """Frees at least `cells` cells for `tenant` if leases leave as many, and gives how many it freed."""
        freed = 0
        while freed < cells:
            victim = choose_victim(self._resident.values(), _length, self.weights, cells - freed, tenant)
            if victim is None:
                break
            freed += self._shrink(victim.node, min(cells - freed, victim.surplus))
        return freed

    def demote(self, most: int) -> int:
        """Moves at most `most` cells that no lease holds to host memory and gives how many.

        It gives 0 when all are held or there is no host tier. What is too large for the tier goes for good.
        """
        victim = choose_victim(self._resident.values(), _length, self.weights) if self._host_budget_bytes else None
        if victim is None:
            return 0
        node = victim.node
        if node.length > most and self._free_ids:
            self.split(node, node.end - most)
        return self._shrink(node, node.length)

    def cut(self, node: Node, position: int) -> int:
        """Frees the cells that a resident node without children has from a position on, and gives how many."""
        freed = node.end - position
        self._store.forget(node.id, position, node.end)
        node.tokens = node.tokens[: position - node.begin]
        return freed

    def make_ids(self, count: int, tenant: str) -> bool:
        """Sees to it that `count` ids are free for `tenant`, at the cost of no tenant that has fewer per weight."""
        while len(self._free_ids) < count:
            if self._join_a_chain():
                continue
            victim = choose_victim(self._resident.values(), _one, self.weights, wanted_by=tenant)
            own = sum(node.partition.tenant == tenant for node in self._resident.values())
            if victim is None or victim.level < own / self.weights.get(tenant, 1):
                return False
            self._shrink(victim.node, victim.node.length)
        return True

    def check(self, nodes: Iterable[Node]) -> None:
        """Checks the books against the KV cache; `nodes` are those of all trees.

        Raises:
            RuntimeError: They don't agree; the message names the leak.
        """
        known = {*self._resident.values(), *self._saved}
        require(known == set(nodes), "a node is in no tree, or in one without being known")
        kept = sorted((*self._resident, *self._free_ids))
        require(kept == sorted(self._ids), "a sequence id is lost or has two keepers")
        for sequence in self._ids:
            node = self._resident.get(sequence)
            has, should = self._store.span(sequence), range(node.begin, node.end) if node else range(0)
            require(has == should, f"sequence {sequence} has the cells of {has}, not of {should}")
            require(node is None or node.id == sequence, f"sequence {sequence} is not what its node has")
        require(all(node.saved and not node.holds for node in self._saved), "a saved node is empty or held")
        require(self.host_bytes <= self._host_budget_bytes, "the host tier is above its budget")

    def _join_a_chain(self) -> bool:
        """Frees the id of a node whose only child can do for both; False when there is none."""
        for node in self._resident.values():
            child = node.only_child
            if child is not None:
                self._store.share(node.id, child.id, node.begin, node.end)
                child.absorb_parent(node)
                self._free(node)
                return True
        return False

    def _shrink(self, node: Node, cells: float) -> int:
        """Frees at least `cells` cells of an evictable node, or all it has, and gives how many.

        It goes to the host tier as a whole. Without one, or when it is too large for it, its tail goes in whole blocks.
        """
        length = node.length
        saved = self._store.save(node.id) if self._host_budget_bytes else b""
        if 0 < len(saved) <= self._host_budget_bytes:
            self._free(node)
            self._keep(node, saved)
            return length
        kept = length - max(1, -int(-cells // BLOCK_TOKENS)) * BLOCK_TOKENS
        if kept <= 0:
            self.drop(node)
            return length
        for child in list(node.children.values()):
            self.drop(child)
        return self.cut(node, node.begin + kept)

    def _keep(self, node: Node, saved: bytes) -> None:
        """Keeps a node in the host tier, where the same rule makes room."""
        node.saved = saved
        self._saved.add(node)
        while self.host_bytes > self._host_budget_bytes:
            victim = choose_victim(self._saved, _saved_bytes, self.weights)
            if victim is None:
                break
            self.drop(victim.node)

    def _settle(self, node: Node) -> None:
        """Gives a node the next free id."""
        self._saved.discard(node)
        node.saved = None
        node.id = self._free_ids.pop()
        self._resident[node.id] = node

    def _free(self, node: Node) -> None:
        """Forgets the cells of a resident node and takes its id back."""
        self._store.forget(node.id)
        del self._resident[node.id]
        self._free_ids.append(node.id)
        node.id = NO_ID


def require(true: bool, leak: str) -> None:
    """Raises RuntimeError, naming the leak, where the books don't hold."""
    if not true:
        raise RuntimeError(f"The prefix cache's books are wrong: {leak}.")


def _length(node: Node) -> int:
    return node.length


def _one(_: Node) -> int:
    return 1


def _saved_bytes(node: Node) -> int:
    return len(node.saved or b"")
