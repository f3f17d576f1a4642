"""The model behind the tenant's checks: the only way the rest of the service generates and embeds."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from redoma_chat.checks.chain import Chain, Passage
from redoma_chat.checks.source import CheckSource
from redoma_chat.deadline import Deadline
from redoma_chat.inference import Delta, Done, Embeddings, Event, FinishReason, Passages, Prompt, Usage
from redoma_chat.measurements import AnswerMeasurements
from redoma_chat.model_channel import ModelChannel
from redoma_chat.sampling import Sampling
from redoma_kit.errors import InvalidField

NOTHING = Passage()


@dataclass(frozen=True, slots=True)
class CheckedPrompt:
    """A prompt that passed the checks, maybe masked, and the checks its answer has to pass."""

    prompt: Prompt
    tenant: str
    chain: Chain


class GuardedModel:
    """Generates with the checks of the caller's tenant on both sides, and embeds with those on the input."""

    def __init__(
        self, model: ModelChannel, checks: CheckSource, measurements: AnswerMeasurements, clock: Callable[[], float]
    ) -> None:
        self._model = model
        self._checks = checks
        self._measurements = measurements
        self._clock = clock

    async def check(self, tenant: str, prompt: Prompt, deadline: Deadline) -> CheckedPrompt:
        """Runs the input side of the checks.

        Raises:
            InputRefused: A check refused the prompt.
            ChecksUnavailable: The checks can't be had.
        """
        chain = await self._checks.chain(tenant)
        return CheckedPrompt(await chain.check_input(prompt, deadline.remaining_s), tenant, chain)

    async def generate(
        self, checked: CheckedPrompt, sampling: Sampling, deadline: Deadline, already: Passage = NOTHING
    ) -> AsyncGenerator[Event, None]:
        """Streams an answer as ModelChannel.generate does, with the output side of the checks applied.

        `already` is the answer that is being continued. An answer that a check ends is Done with CONTENT_FILTER.

        Raises:
            InvalidField: Log probabilities are asked for, and the checks hold text back.
        """
        output = checked.chain.output_chain(already)
        if output is not None and sampling.logprobs:
            raise InvalidField("logprobs", "not to be had while your tenant has answers checked for patterns")
        asked_at = self._clock()
        waiting = True
        usage = Usage()
        self._measurements.answer_began()
        try:
            async with aclosing(self._model.generate(checked.prompt, sampling, deadline.remaining_s)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        usage = event.usage
                        if waiting:
                            waiting = False
                            self._measurements.first_token(self._clock() - asked_at)
                        if output is not None:
                            event = output.feed(event)
                            if output.refused:
                                yield event
                                yield Done(FinishReason.CONTENT_FILTER, usage)
                                return
                    elif isinstance(event, Done):
                        usage = event.usage
                        held = output.flush(usage) if output is not None else None
                        if held is not None:
                            yield held
                    yield event
        finally:
            self._measurements.answer_ended(checked.tenant, usage)

    async def embed(self, tenant: str, passages: Passages, deadline: Deadline) -> Embeddings:
        """Embeds what the input side of the checks lets through.

        Raises:
            InputRefused: A check refused it.
            ChecksUnavailable: The checks can't be had.
        """
        chain = await self._checks.chain(tenant)
        checked = await chain.check_passages(passages, deadline.remaining_s)
        embeddings = await self._model.embed(checked, deadline.remaining_s)
        self._measurements.embedded(tenant, embeddings.usage)
        return embeddings
