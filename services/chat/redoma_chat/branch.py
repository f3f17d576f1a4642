"""The prompt of an answer: the system prompt and the branch of the tree that leads to it.

Thinning to the context window is the model's job; here only what no window could hold is left out, so that a request
stays below the size of a message on the wire.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from redoma_chat.inference import Prompt, Role, Turn
from redoma_chat.names import Owner

MAX_TURNS = 4_095
MAX_BYTES = 1_500_000


@dataclass(frozen=True, slots=True)
class BranchEntry:
    """A message on a branch, without its text, which takes `size_bytes` where it is kept."""

    id: str
    role: Role
    size_bytes: int


class BranchStore(Protocol):
    """Where branches are read."""

    async def branch(self, owner: Owner, conversation_id: str, tip: str) -> list[BranchEntry]:
        """Gives the messages from the root to `tip`, oldest first; empty where there is no such message."""
        ...

    async def contents(self, owner: Owner, message_ids: Sequence[str]) -> dict[str, str]:
        """Gives the texts of messages, by id."""
        ...


@dataclass(frozen=True, slots=True)
class Branch:
    """The turns of a branch that a prompt can hold, and how many of the oldest were left out."""

    turns: tuple[Turn, ...]
    left_out: int


async def read_branch(store: BranchStore, owner: Owner, conversation_id: str, tip: str) -> Branch:
    """Reads the branch that ends with the message `tip`; an empty `tip` is the empty branch."""
    if not tip:
        return Branch((), 0)
    entries = await store.branch(owner, conversation_id, tip)
    kept = entries[first_kept(entries) :]
    contents = await store.contents(owner, [entry.id for entry in kept])
    turns = tuple(Turn(entry.role, contents[entry.id]) for entry in kept if entry.id in contents)
    return Branch(turns, len(entries) - len(kept))


def first_kept(entries: Sequence[BranchEntry]) -> int:
    """Gives the index of the first message that a prompt can hold together with all that follow; a user's, if any."""
    first = max(0, len(entries) - MAX_TURNS + 1)
    size_bytes = sum(entry.size_bytes for entry in entries[first:])
    while first < len(entries) - 1 and size_bytes > MAX_BYTES:
        size_bytes -= entries[first].size_bytes
        first += 1
    while 0 < first < len(entries) - 1 and entries[first].role is not Role.USER:
        first += 1
    return first


def prompt_of(
    conversation: str, model: str, system_prompt: str, branch: Branch, question: str | None = None, partial: str = ""
) -> Prompt:
    """Gives the prompt for an answer after `branch`, to `question` if there is a new one, going on from `partial`."""
    turns = [Turn(Role.SYSTEM, system_prompt)] if system_prompt else []
    turns += branch.turns
    if question is not None:
        turns.append(Turn(Role.USER, question))
    if partial:
        turns.append(Turn(Role.ASSISTANT, partial))
    return Prompt(model, tuple(turns), continues=bool(partial), drop_oldest=True, conversation=conversation)
