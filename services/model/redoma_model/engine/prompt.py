"""From messages to the tokens of a prompt: no content can forge a role, what does not fit is refused or shortened."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from redoma_kit.errors import InvalidField
from redoma_model.engine.backend import ModelInfo, Tokenizer
from redoma_model.engine.template import ChatTemplate, Content, Message, Part, Role, opens_reasoning
from redoma_model.engine.text import THINK_CLOSE, THINK_OPEN
from redoma_model.errors import PromptTooLong

MAX_MESSAGES = 4_096
# Bytes of a token of ordinary text. Only where turns are cut depends on it, not whether the rest fits.
BYTES_PER_TOKEN = 4
# A prompt of more bytes than this for each token of the context window is refused before it is tokenized, unless it is
# small enough to be counted all the same.
MOST_BYTES_PER_TOKEN = 32
ALWAYS_COUNTED_BYTES = 1 << 20
# What a turn costs beyond its content, until the prompt is counted.
TURN_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the model sees it.

    Attributes:
        tokens: Its tokens.
        dropped_messages: How many messages were left out, from the oldest that is not the system message.
        may_reason: Whether the answer may begin with a think section.
        in_reasoning: Whether it ends inside a think section.
        begun: Tokens of the answer that is continued, behind its think section.
    """

    tokens: tuple[int, ...]
    dropped_messages: int
    may_reason: bool
    in_reasoning: bool
    begun: tuple[int, ...] = ()


class PromptBuilder:
    """Builds prompts for one model. Thread-safe; the work takes up to some 10 ms, so keep it off the event loop."""

    __slots__ = ("_info", "_marker", "_template", "_tokenizer")

    def __init__(self, info: ModelInfo, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._info = info
        self._tokenizer = tokenizer
        self._template = template
        markers = sorted((text for text in info.marker_texts if len(text) > 1), key=len, reverse=True)
        self._marker = re.compile("|".join(map(re.escape, markers))) if markers else None

    def build(self, messages: Sequence[Message], continue_final: bool, drop_oldest: bool, room_tokens: int) -> Prompt:
        """Builds the prompt of a generation.

        Args:
            messages: The turns, oldest first.
            continue_final: The last message is the assistant's and is left open.
            drop_oldest: Leave the oldest turns out when the prompt does not fit.
            room_tokens: Where turns are left out, what is to remain of the context window for the answer.

        Raises:
            InvalidField: The messages are no conversation, or not one the chat template takes.
            PromptTooLong: The prompt does not fit.
        """
        check_messages(messages, continue_final)
        contents = _Contents(self, messages, continue_final)
        context_tokens = self._info.context_tokens
        whole = context_tokens - 1
        roomy = context_tokens - max(1, min(room_tokens, context_tokens // 4)) if drop_oldest else whole
        cuts = [0, *_cuts(messages, contents, roomy, context_tokens // 4)] if drop_oldest else [0]
        for cut in cuts[:-1]:
            if contents.at_least(cut, roomy) <= roomy:
                prompt = self._assemble(messages, contents, continue_final, cut)
                if len(prompt.tokens) <= roomy:
                    return prompt
        # Nothing more can be left out: the room for the answer may shrink to one token.
        by_bytes = contents.at_least_by_bytes(cuts[-1])
        if by_bytes > whole and contents.bytes(cuts[-1]) > ALWAYS_COUNTED_BYTES:
            raise PromptTooLong(by_bytes, context_tokens, counted=False)
        prompt = self._assemble(messages, contents, continue_final, cuts[-1])
        if len(prompt.tokens) > whole:
            raise PromptTooLong(len(prompt.tokens), context_tokens)
        return prompt

    def count(self, messages: Sequence[Message], continue_final: bool) -> int:
        """Counts the tokens of a prompt of any length.

        Raises:
            InvalidField: As for `build`.
        """
        check_messages(messages, continue_final)
        return len(self._assemble(messages, _Contents(self, messages, continue_final), continue_final, 0).tokens)

    def system_prefix(self, system: str) -> tuple[int, ...]:
        """Gives the tokens that every prompt with this system message begins with."""
        prompts = [
            self.build((Message(Role.SYSTEM, system), Message(Role.USER, user)), False, False, 1).tokens
            for user in ("A", "1")
        ]
        return tuple(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*prompts, strict=False)))

    def content_tokens(self, content: str) -> list[int]:
        """Tokenizes a message's content as plain text.

        The library still recognises tokens that a vocabulary marks as user-defined, and some models' role markers are
        such; so the text of every marker is cut after its first character, and the pieces are tokenized apart.
        """
        if self._marker is None:
            return self._tokenizer.tokenize(content, parse_special=False)
        tokens: list[int] = []
        begin = position = 0
        while (found := self._marker.search(content, position)) is not None:
            position = found.start() + 1
            tokens += self._tokenizer.tokenize(content[begin:position], parse_special=False)
            begin = position
        return tokens + self._tokenizer.tokenize(content[begin:], parse_special=False)

    def visible(self, message: Message, left_open: bool) -> str:
        """Gives a message's content as the template would print it; the end of one that is left open stays as it is."""
        if not self._template.trims:
            return message.content
        return message.content.lstrip() if left_open else message.content.strip()

    @property
    def most_bytes_per_token(self) -> int:
        """Bytes of text that a prompt's tokens stand for at the very most, on average."""
        return min(self._info.longest_token_bytes, MOST_BYTES_PER_TOKEN)

    def _assemble(self, messages: Sequence[Message], counts: "_Contents", continue_final: bool, dropped: int) -> Prompt:
        first = 1 if messages[0].role is Role.SYSTEM else 0
        kept = [*range(first), *range(first + dropped, len(messages))]
        parts = self._template.parts([messages[index] for index in kept], continue_final)
        tokens: list[int] = []
        for part in parts:
            if isinstance(part, Content):
                tokens += counts.tokens(kept[part.index])
            else:
                tokens += self._tokenizer.tokenize(part, parse_special=True)
        prefix = list(self._info.prompt_prefix)
        if tokens[: len(prefix)] != prefix:
            tokens = prefix + tokens
        may_reason, in_reasoning = self._reasoning(messages, parts, continue_final)
        begun: list[int] = []
        if continue_final and not in_reasoning:
            answer = self.visible(messages[-1], left_open=True).rpartition(THINK_CLOSE)[2]
            begun = self.content_tokens(answer.lstrip() if self._template.reasons else answer)
        return Prompt(tuple(tokens), dropped, may_reason, in_reasoning, tuple(begun))

    def _reasoning(self, messages: Sequence[Message], parts: Sequence[Part], continue_final: bool) -> tuple[bool, bool]:
        if not self._template.reasons:
            return False, False
        if continue_final:
            content = messages[-1].content
            return not content.strip(), content.rfind(THINK_OPEN) > content.rfind(THINK_CLOSE)
        inside = opens_reasoning(parts)
        return not inside, inside


class _Contents:
    """The tokens of each message's content, tokenized once and only when asked for."""

    def __init__(self, builder: PromptBuilder, messages: Sequence[Message], continue_final: bool) -> None:
        self._builder = builder
        last = len(messages) - 1
        self._texts = [builder.visible(one, continue_final and index == last) for index, one in enumerate(messages)]
        self._bytes = [len(text.encode()) for text in self._texts]
        self._tokens: dict[int, list[int]] = {}
        self.first = 1 if messages[0].role is Role.SYSTEM else 0

    def tokens(self, index: int) -> list[int]:
        """Tokenizes the content of a message."""
        if index not in self._tokens:
            self._tokens[index] = self._builder.content_tokens(self._texts[index])
        return self._tokens[index]

    def estimate(self, index: int) -> int:
        """Estimates what a message takes, from its bytes alone and always the same."""
        return self._bytes[index] // BYTES_PER_TOKEN + TURN_TOKENS

    def bytes(self, dropped: int) -> int:
        """Gives the bytes of the contents left when `dropped` messages are."""
        return sum(self._bytes[index] for index in self._kept(dropped))

    def at_least_by_bytes(self, dropped: int) -> int:
        """Gives a lower bound of the tokens left when `dropped` messages are, without tokenizing."""
        return self.bytes(dropped) // self._builder.most_bytes_per_token

    def at_least(self, dropped: int, limit: int) -> int:
        """Gives a lower bound of the tokens left when `dropped` messages are.

        Where it is not above `limit` it is exact but for the template's words; where it is, little was tokenized.
        """
        count = self.at_least_by_bytes(dropped)
        if count > limit:
            return count
        count = 0
        for index in reversed(self._kept(dropped)):
            count += len(self.tokens(index))
            if count > limit:
                break
        return count

    def _kept(self, dropped: int) -> list[int]:
        return [*range(self.first), *range(self.first + dropped, len(self._texts))]


def _cuts(messages: Sequence[Message], contents: _Contents, limit: int, block_tokens: int) -> list[int]:
    """Finds where a conversation may be cut so that it fits `limit`: before a user's turn, and by blocks.

    The cut moves on by a whole block at a time, measured from the beginning of the conversation, so that it stays where
    it is while the conversation grows by less, and the prompt's beginning with it. Cuts after which too much is left
    are omitted; they are sought from the newest turn back, so that little is tokenized.

    Returns:
        How many messages each cut drops, ascending; the last leaves the last user's turn alone.
    """
    first = contents.first
    passed, before = first, 0
    by_block: dict[int, int] = {}
    turns = [index for index in range(first + 1, len(messages)) if messages[index].role is Role.USER]
    for turn in turns:
        before += sum(contents.estimate(index) for index in range(passed, turn))
        passed = turn
        by_block.setdefault(before // block_tokens, turn - first)
    cuts = sorted({cut for block, cut in by_block.items() if block > 0} | {turn - first for turn in turns[-1:]})
    fitting = len(cuts) - 1
    while fitting > 0 and contents.at_least(cuts[fitting - 1], limit) <= limit:
        fitting -= 1
    return cuts[max(0, fitting) :]


def check_messages(messages: Sequence[Message], continue_final: bool) -> None:
    """Checks that the messages are a conversation: a system message first if any, and the right one last.

    Raises:
        InvalidField: They are not.
    """
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidField("messages", f"{len(messages)} messages are not 1 to {MAX_MESSAGES}.")
    for index, message in enumerate(messages):
        if message.role is Role.SYSTEM and index > 0:
            raise InvalidField(f"messages[{index}].role", "only the first message may be the system's.")
    last = len(messages) - 1
    if continue_final and messages[-1].role is not Role.ASSISTANT:
        raise InvalidField(f"messages[{last}].role", "the message to continue must be the assistant's.")
    if not continue_final and messages[-1].role is not Role.USER:
        raise InvalidField(f"messages[{last}].role", "the last message must be the user's.")
