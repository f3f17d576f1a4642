"""The check that keeps a request's prompt below a number of tokens."""

from dataclasses import replace

from redoma_chat.checks.chain import OutputFilter, Passage
from redoma_chat.errors import InputRefused
from redoma_chat.inference import Passages, Prompt, Role, Turn
from redoma_chat.model_channel import ModelChannel

NAME = "max_input_tokens"


class MaxInputTokens:
    """Refuses prompts of more than `limit` tokens, as the model counts them."""

    def __init__(self, limit: int, model: ModelChannel) -> None:
        self._limit = limit
        self._model = model

    async def check_input(self, prompt: Prompt, timeout_s: float) -> Prompt:
        """Counts the prompt. One that loses its oldest turns counts as at most the context window.

        Raises:
            InputRefused: It has too many tokens.
        """
        count = await self._model.count_tokens(prompt, timeout_s)
        tokens = min(count.input_tokens, count.context_tokens) if prompt.drop_oldest else count.input_tokens
        self._check(tokens)
        return replace(prompt, count=count)

    async def check_passages(self, passages: Passages, timeout_s: float) -> Passages:
        """Counts all texts together, one a line of one message, and the tokens that are given.

        Raises:
            InputRefused: They are too many tokens.
        """
        texts = [item for item in passages.items if isinstance(item, str)]
        tokens = sum(len(item) for item in passages.items if not isinstance(item, str))
        self._check(tokens)
        if texts:
            prompt = Prompt(passages.model, (Turn(Role.USER, "\n".join(texts)),))
            tokens += (await self._model.count_tokens(prompt, timeout_s)).input_tokens
            self._check(tokens)
        return passages

    def _check(self, tokens: int) -> None:
        if tokens > self._limit:
            raise InputRefused(NAME, f"The input has {tokens} tokens; your tenant allows {self._limit} a request.")

    def output_filter(self, already: Passage) -> OutputFilter | None:
        """Answers are not its matter."""
        return None
