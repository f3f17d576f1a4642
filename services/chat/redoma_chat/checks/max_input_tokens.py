"""The check that keeps a request's prompt below a number of tokens."""

from redoma_chat.checks.chain import OutputFilter, Passage
from redoma_chat.errors import InputRefused
from redoma_chat.inference import Prompt
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
        if tokens > self._limit:
            raise InputRefused(NAME, f"The input has {tokens} tokens; your tenant allows {self._limit} a request.")
        return prompt

    def output_filter(self, already: Passage) -> OutputFilter | None:
        """Answers are not its matter."""
        return None
