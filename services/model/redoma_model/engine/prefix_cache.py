"""The prefix cache: KV cells computed for a prefix of tokens serve later requests of the same tenant and adapter.

Each partition has a radix tree. A resident node has a sequence id of the KV cache with the cells of its run and no
other; a request gets a prefix by sharing the cells of the nodes on its path, which copies nothing. Cells never pass
from one partition to another; the operator's public prefixes hang above the trees of all tenants.

Books: the cells in use are `cells` plus, for each running sequence, what it computed beyond its lease's length.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from redoma_model.engine.cells import CellStore
from redoma_model.engine.prefix_cells import PrefixCells, require
from redoma_model.engine.prefix_tree import BLOCK_TOKENS, Lease, Match, Node, Partition, find

__all__ = ["BLOCK_TOKENS", "Lease", "Partition", "PrefixCache"]
# Cells that may be copied back from host memory for each one that spares computing a token.
RESTORED_FOR_ONE = 16


class PrefixCache:
    """Trees of prefixes over the KV cells. Not thread-safe: the engine's thread owns it."""

    def __init__(
        self,
        store: CellStore,
        ids: Iterable[int],
        host_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes an empty cache.

        Args:
            store: The KV cells.
            ids: Sequences of the KV cache that are the cache's to use.
            host_bytes: Most host memory for copies of evicted prefixes; 0 keeps none.
            clock: Orders nodes by their last use.
        """
        self._store = store
        self._nodes = PrefixCells(store, ids, host_bytes)
        self._clock = clock
        self._public: list[Node] = []
        self._roots: dict[Partition, Node] = {}
        self._leases: set[Lease] = set()

    @property
    def cells(self) -> int:
        """KV cells of cached prefixes, each counted once, public ones included."""
        return sum(node.length for node in self._nodes.resident)

    @property
    def ids(self) -> Iterable[int]:
        """The sequences of the KV cache that have those cells."""
        return self._nodes.ids

    @property
    def host_bytes(self) -> int:
        """Host memory of evicted prefixes."""
        return self._nodes.host_bytes

    def tenant_cells(self) -> dict[str, int]:
        """Gives the cells of cached prefixes by tenant; public ones are those of the tenant ""."""
        cells: dict[str, int] = {}
        for node in self._nodes.resident:
            cells[node.partition.tenant] = cells.get(node.partition.tenant, 0) + node.length
        return cells

    def publish(self, tokens: Sequence[int], slot: int) -> int:
        """Makes a prefix public and gives its index; it is never evicted.

        The slot has computed exactly these tokens, under the base model and without a lease. Its cells become the
        cache's; the caller forgets the slot.

        Raises:
            RuntimeError: No sequence id is left for it.
        """
        for index, node in enumerate(self._public):
            if node.tokens == tuple(tokens):
                return index
        if not self._make_ids(1, ""):
            raise RuntimeError("No sequence id is left for a public prefix.")
        node = Node(Partition(""), None, 0, tuple(tokens), holds=1)
        self._nodes.fill(node, slot)
        self._public.append(node)
        return len(self._public) - 1

    def partition(self, tenant: str, adapter: str, tokens: Sequence[int]) -> Partition:
        """Gives the partition of a prompt: on the base model, under the longest public prefix that it goes on from."""
        public, longest = -1, 0
        for index, node in enumerate(self._public if not adapter else ()):
            if longest < node.end < len(tokens) and tuple(tokens[: node.end]) == node.tokens:
                public, longest = index, node.end
        return Partition(tenant, adapter, public)

    def match(self, partition: Partition, tokens: Sequence[int], with_saved: bool = False) -> int:
        """Gives how many leading tokens, public prefix included, the KV cache has for `acquire`; touches nothing.

        At least one token is left to compute. What the host tier has counts if asked for: restoring it takes cells.

        Raises:
            ValueError: The tokens don't begin with the partition's public prefix.
        """
        begin = self._begin(partition, tokens)
        root = self._roots.get(partition)
        limit = _whole_blocks(begin, len(tokens) - 1)
        return find(root, tokens, limit, with_saved).end if root else begin

    def kept_cells(self, leases: Iterable[Lease], partition: Partition, tokens: Sequence[int]) -> tuple[int, int]:
        """Gives the cells that stay when all that can be is evicted but for these leases and a match of `tokens`,
        and how many of the tokens that match has."""
        matched = 0
        root = self._roots.get(partition)
        reached = [(lease.node, lease.length) for lease in leases]
        if tokens and root is not None:
            match = find(root, tokens, _whole_blocks(self._begin(partition, tokens), len(tokens) - 1))
            matched = match.end
            reached.append((match.node, match.end))
        kept = {node: node.end for node in self._public}
        for deepest, position in reached:
            for node in deepest.path():
                kept[node] = max(kept.get(node, node.begin), position if node is deepest else node.end)
        return sum(min(end, node.end) - node.begin for node, end in kept.items()), matched

    def empty_lease(self, partition: Partition, weight: int) -> Lease:
        """Gives the lease of a sequence whose cells are all its own, such as one that comes back from host memory."""
        root = self._roots.get(partition)
        if root is None:
            above = self._public[partition.public] if partition.public >= 0 else None
            root = self._roots[partition] = Node(partition, above, above.end if above else 0, ())
        self._nodes.weights[partition.tenant] = weight
        for node in root.path():
            node.holds += 1
        lease = Lease(partition, 0, 0, root)
        self._leases.add(lease)
        return lease

    def acquire(
        self, partition: Partition, weight: int, tokens: Sequence[int], slot: int, *, free_cells: int = 0
    ) -> Lease:
        """Gives an empty slot the cells of the longest known prefix of `tokens`, short of the last, and holds them.

        Args:
            partition: From `partition`, for these tokens.
            weight: Of the tenant.
            tokens: What the sequence begins with, at least one.
            slot: Sequence of the KV cache that has no cell.
            free_cells: Cells that may be filled with prefixes of the host tier; `cells` grows by those that were.

        Raises:
            RuntimeError: The slot has cells.
            ValueError: The tokens don't begin with the partition's public prefix.
        """
        begin = self._begin(partition, tokens)
        if self._store.span(slot):
            raise RuntimeError(f"Slot {slot} still has cells.")
        lease = self.empty_lease(partition, weight)
        limit = _whole_blocks(begin, len(tokens) - 1)
        match = self._find(lease, tokens, limit)
        while match.saved is not None and (restored := self._restore(match.saved, tokens, limit, free_cells)):
            free_cells -= restored
            match = self._find(lease, tokens, limit)
        self._nodes.share(match.node, slot, 0, match.end)
        lease.length, lease.own = match.end, match.end - begin
        return lease

    def share(self, lease: Lease, slot: int) -> None:
        """Gives a slot the cells that its lease reaches; it must have none of them."""
        self._nodes.share(lease.node, slot, 0, lease.length)

    def extend(self, lease: Lease, tokens: Sequence[int], slot: int) -> None:
        """Puts the whole blocks of `tokens`, all computed in `slot`, into the cache and holds them.

        Where another request brought the same tokens meanwhile, the slot's cells are given up for those of the cache.
        When there is no id for new ones, they stay the slot's own. `lease.length` tells how far they are the cache's.

        Raises:
            ValueError: The tokens don't begin with the partition's public prefix.
        """
        limit = _whole_blocks(self._begin(lease.partition, tokens), len(tokens))
        while lease.length < limit:
            match = self._find(lease, tokens, limit)
            if match.end > lease.length:
                self._store.forget(slot, lease.length, match.end)
                self._nodes.share(match.node, slot, lease.length, match.end)
                lease.length = match.end
            elif not self._append(lease, match, tokens, limit, slot):
                break

    def release(self, lease: Lease) -> None:
        """Ends a lease; the caller forgets the slot along with it.

        Raises:
            KeyError: It has ended.
        """
        self._leases.remove(lease)
        for node in lease.node.path():
            node.holds -= 1
        self._prune()

    def evict(self, cells: int, spare: str | None = None) -> int:
        """Frees at least `cells` cells if leases leave as many, and gives how many it freed.

        `spare` names the tenant the room is for. It pays like any other: when it is furthest above its share its own
        prefixes go, and among equals they go first.
        """
        freed = self._nodes.evict(cells, spare)
        if freed < cells:
            freed += self._cut_tails(cells - freed)
        self._prune()
        return freed

    def demote(self, idle_cells: int, most: int) -> int:
        """Moves cells that no lease holds to host memory, when they are more than `idle_cells`; gives how many.

        At most `most` of them, in whole blocks, so that it can be done between two steps.
        """
        idle = sum(node.length for node in self._nodes.resident if not node.holds)
        if idle <= idle_cells:
            return 0
        moved = self._nodes.demote(most)
        self._prune()
        return moved

    def _cut_tails(self, cells: int) -> int:
        """Frees what held leaves have beyond the positions that their leases reach."""
        reach: dict[Node, int] = {}
        for lease in self._leases:
            reach[lease.node] = max(reach.get(lease.node, 0), lease.length)
        freed = 0
        for node, position in reach.items():
            if freed >= cells:
                break
            if node.resident and node.begin < position < node.end and not node.children:
                freed += self._nodes.cut(node, position)
        return freed

    def purge(self, tenant: str) -> tuple[int, int]:
        """Drops all prefixes of a tenant and gives how many cells and bytes of host memory they had.

        Raises:
            RuntimeError: A lease of the tenant is out.
        """
        return self._purge([root for partition, root in self._roots.items() if partition.tenant == tenant])

    def purge_adapter(self, adapter: str) -> int:
        """Drops all prefixes that were computed under an adapter and gives how many cells they had.

        Raises:
            RuntimeError: A lease under the adapter is out.
        """
        return self._purge([root for partition, root in self._roots.items() if partition.adapter == adapter])[0]

    def check(self) -> None:
        """Checks the books against the KV cache and the leases.

        Raises:
            RuntimeError: They don't agree; the message names the leak.
        """
        nodes = [node for root in self._roots.values() for node in root.subtree() if node is not root]
        for node in nodes:
            _check_node(node)
        self._nodes.check([*self._public, *nodes])
        require(all(root.children or root.holds for root in self._roots.values()), "an empty tree was left")
        holds = dict.fromkeys(self._public, 1)
        for lease in self._leases:
            require(lease.length <= lease.node.end, f"a lease of {lease.length} cells holds {lease.node.end}")
            for node in lease.node.path():
                holds[node] = holds.get(node, 0) + 1
        for node in (*self._public, *self._roots.values(), *nodes):
            require(node.holds == holds.pop(node, 0), f"a node at {node.begin} has {node.holds} holds, not its leases'")
        require(not holds, "a lease holds a node that is in no tree")

    def _begin(self, partition: Partition, tokens: Sequence[int]) -> int:
        """Gives where the partition's tree begins, behind its public prefix."""
        if partition.public < 0:
            return 0
        node = self._public[partition.public]
        if partition.adapter or tuple(tokens[: node.end]) != node.tokens:
            raise ValueError(f"The tokens don't begin with public prefix {partition.public}.")
        return node.end

    def _find(self, lease: Lease, tokens: Sequence[int], limit: int) -> Match:
        """Looks the tokens up, and holds and touches what is found."""
        match = find(self._roots[lease.partition], tokens, limit)
        self._hold(lease, match.node)
        now = self._clock()
        for node in match.node.path():
            node.used_at = now
        return match

    def _hold(self, lease: Lease, node: Node) -> None:
        """Moves a lease to another node of its tree."""
        for held in lease.node.path():
            held.holds -= 1
        for held in node.path():
            held.holds += 1
        lease.node = node

    def _restore(self, node: Node, tokens: Sequence[int], limit: int, free_cells: int) -> int:
        """Brings a saved node back if enough of it serves the tokens and there is room; gives the cells it took."""
        if node.length > free_cells or RESTORED_FOR_ONE * (node.reach(tokens, limit) - node.begin) < node.length:
            return 0
        # Making room may push this very node out of the host tier.
        fits = self._make_ids(1, node.partition.tenant) and self._nodes.restore(node)
        return node.length if fits else 0

    def _append(self, lease: Lease, match: Match, tokens: Sequence[int], limit: int, slot: int) -> bool:
        """Takes one step towards having the tokens in the tree, from where it stops knowing them; False if it can't."""
        node, new = match.node, match.saved
        if new is not None and new.reach(tokens, limit) < new.end:
            self._nodes.drop(new)
            return True
        if node.resident and match.end == node.end and not node.children:
            self._nodes.grow(node, tokens[match.end : limit], slot)
            lease.length = limit
            return True
        needed = 1 if match.end == node.end else 2
        if self._nodes.free_ids < needed:
            return self._make_ids(needed, lease.partition.tenant)
        if match.end < node.end:
            node = self._split(node, match.end)
        if new is None:
            new = Node(lease.partition, node, match.end, tuple(tokens[match.end : limit]), self._clock())
            new.attach(node)
        self._nodes.fill(new, slot)
        self._hold(lease, new)
        lease.length = new.end
        return True

    def _split(self, node: Node, position: int) -> Node:
        """Splits a node and gives its head; leases that go no further let go of the tail."""
        head = self._nodes.split(node, position)
        for lease in self._leases:
            if lease.node is node and lease.length <= position:
                self._hold(lease, head)
        return head

    def _make_ids(self, count: int, tenant: str) -> bool:
        made = self._nodes.make_ids(count, tenant)
        self._prune()
        return made

    def _prune(self) -> None:
        """Forgets partitions without nodes and leases, and the weights of tenants without partitions."""
        for partition in [partition for partition, root in self._roots.items() if not root.children and not root.holds]:
            del self._roots[partition]
        for tenant in self._nodes.weights.keys() - {partition.tenant for partition in self._roots}:
            del self._nodes.weights[tenant]

    def _purge(self, roots: list[Node]) -> tuple[int, int]:
        if any(root.holds for root in roots):
            raise RuntimeError("What a running sequence holds can't be purged.")
        cells, host_bytes = self.cells, self.host_bytes
        for root in roots:
            for child in list(root.children.values()):
                self._nodes.drop(child)
        self._prune()
        return cells - self.cells, host_bytes - self.host_bytes


def _whole_blocks(begin: int, end: int) -> int:
    """Gives the end of the last whole block after `begin` that ends at `end` or before."""
    return begin + max(0, end - begin) // BLOCK_TOKENS * BLOCK_TOKENS


def _check_node(node: Node) -> None:
    parent = node.parent
    if parent is None or parent.end != node.begin or parent.children.get(node.tokens[:BLOCK_TOKENS]) is not node:
        raise RuntimeError(f"The prefix cache's books are wrong: a node at {node.begin} is not where its tokens lead.")
    require(node.length > 0 and node.length % BLOCK_TOKENS == 0, f"a node has {node.length} tokens, no whole blocks")
    require(node.resident == (node.saved is None), f"a node at {node.begin} is neither resident nor saved, or both")
    require(parent.resident or not parent.tokens or not node.resident, "a resident node hangs under a saved one")
