"""The radix tree of cached prefixes: which tokens its nodes stand for. Of KV cells it knows only who keeps them.

A tree belongs to one partition. Its edges are whole blocks of tokens, so that two prompts part where a block differs
and a node's children are told apart by their first block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

BLOCK_TOKENS = 8
NO_ID = -1


@dataclass(frozen=True, slots=True)
class Partition:
    """Whose prefixes a tree holds: KV cells never pass from one partition to another.

    Attributes:
        tenant: Who they were computed for; empty for the operator's public prefixes.
        adapter: Digest of the adapter they were computed under; empty is the base model.
        public: Index of the operator's public prefix the tree hangs under; -1 is none.
    """

    tenant: str
    adapter: str = ""
    public: int = -1


@dataclass(slots=True, eq=False)
class Node:
    """A run of tokens after its parent's. The root stands for none; above it is the node of a public prefix or nothing.

    A node is resident, with the cells of its run under a sequence id of its own, or saved, with a copy of them in host
    memory. The nodes between a resident one and the root are resident.

    Attributes:
        partition: The tree's.
        parent: A root is no child of the public prefix above it.
        begin: Position of its first token.
        tokens: The run: whole blocks, except for a public prefix.
        used_at: When a request last came by, in the cache's clock.
        id: Sequence of the KV cache that has exactly these cells; NO_ID when saved, and for a root.
        saved: What CellStore.save gave; None when resident.
        holds: Leases on it or below it, and one more for a public prefix.
        children: By their first block.
    """

    partition: Partition
    parent: "Node | None" = field(repr=False)
    begin: int
    tokens: tuple[int, ...] = field(repr=False)
    used_at: float = 0.0
    id: int = NO_ID
    saved: bytes | None = field(default=None, repr=False)
    holds: int = 0
    children: dict[tuple[int, ...], "Node"] = field(default_factory=dict, repr=False)

    @property
    def length(self) -> int:
        """How many tokens it stands for."""
        return len(self.tokens)

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.begin + len(self.tokens)

    @property
    def resident(self) -> bool:
        """Whether its cells are in the KV cache."""
        return self.id != NO_ID

    @property
    def evictable(self) -> bool:
        """Whether nobody needs it where it is: no lease, and no child of the same tier."""
        return self.holds == 0 and not any(child.resident == self.resident for child in self.children.values())

    @property
    def only_child(self) -> "Node | None":
        """The child it can be joined with: its only one, resident and held by the same leases."""
        if not self.resident or len(self.children) != 1:
            return None
        (child,) = self.children.values()
        return child if child.resident and child.holds == self.holds else None

    def path(self) -> "Iterator[Node]":
        """Yields it and what is above it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def subtree(self) -> "Iterator[Node]":
        """Yields it and all below it."""
        yield self
        for child in self.children.values():
            yield from child.subtree()

    def reach(self, tokens: Sequence[int], limit: int) -> int:
        """Gives the position up to which its run is that of `tokens`, in whole blocks and at most `limit`."""
        end = min(self.end, limit)
        if tuple(tokens[self.begin : end]) == self.tokens[: end - self.begin]:
            return end
        at = 0
        while tuple(tokens[self.begin + at : self.begin + at + BLOCK_TOKENS]) == self.tokens[at : at + BLOCK_TOKENS]:
            at += BLOCK_TOKENS
        return self.begin + at

    def attach(self, parent: "Node") -> None:
        """Hangs it under a parent that ends where it begins."""
        self.parent = parent
        parent.children[self.tokens[:BLOCK_TOKENS]] = self

    def detach(self) -> None:
        """Takes it from its parent."""
        if self.parent is not None:
            del self.parent.children[self.tokens[:BLOCK_TOKENS]]

    def split(self, position: int) -> "Node":
        """Cuts its run at the end of a block: keeps the tail and gives the head, its new parent, without id."""
        tokens = self.tokens[: position - self.begin]
        head = Node(self.partition, self.parent, self.begin, tokens, self.used_at, holds=self.holds)
        self.replace_with(head)
        self.begin, self.tokens = position, self.tokens[position - self.begin :]
        self.attach(head)
        return head

    def absorb_parent(self, parent: "Node") -> None:
        """Puts its parent's run before its own, and itself in the parent's place, as its only child."""
        self.begin, self.tokens = parent.begin, parent.tokens + self.tokens
        self.used_at = max(self.used_at, parent.used_at)
        parent.replace_with(self)

    def replace_with(self, node: "Node") -> None:
        """Puts a node that begins with the same block in its place."""
        if self.parent is not None:
            node.attach(self.parent)


@dataclass(slots=True, eq=False)
class Lease:
    """What a running sequence holds of the cache; none of it is evicted while it is held.

    Attributes:
        partition: Whose tree.
        length: Leading positions of the sequence whose cells are the cache's, public prefix included.
        own: How many of them the tenant's own tree had when the lease was acquired, public prefix excluded.
        node: The deepest it holds, for the cache alone; it holds what is above, too.
    """

    partition: Partition
    length: int
    own: int
    node: Node


@dataclass(frozen=True, slots=True)
class Match:
    """How far a tree knows a prompt.

    Attributes:
        node: The deepest resident node that has some of it; the root when none has.
        end: Position up to which resident nodes know it.
        saved: The saved node that goes on from there; None when there is none.
    """

    node: Node
    end: int
    saved: Node | None = None


def find(root: Node, tokens: Sequence[int], limit: int, through_saved: bool = False) -> Match:
    """Looks `tokens` up in a tree, in whole blocks after the root's position and at most to `limit`.

    It stops at a saved node, unless it is to go on through those.
    """
    node, at = root, root.end
    while at == node.end and at < limit:
        child = node.children.get(tuple(tokens[at : at + BLOCK_TOKENS]))
        if child is None:
            break
        if not child.resident and not through_saved:
            return Match(node, at, child)
        node, at = child, child.reach(tokens, limit)
    return Match(node, at)
