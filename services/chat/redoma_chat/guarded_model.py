"""The model behind the tenant's checks and limits: the only way the rest of the service generates and embeds.

A call is held for before it begins and settled however it ends. In between metering costs a few comparisons a token.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from redoma_chat.checks.chain import Chain, Passage
from redoma_chat.checks.source import CheckSource
from redoma_chat.deadline import Deadline
from redoma_chat.errors import QuotaExceeded
from redoma_chat.inference import (
    Delta,
    Done,
    Embeddings,
    Event,
    FinishReason,
    Passages,
    Prompt,
    Role,
    Started,
    TokenCount,
    Turn,
)
from redoma_chat.measurements import AnswerMeasurements
from redoma_chat.metering.meter import Settlement
from redoma_chat.metering.metered_calls import MeteredCalls
from redoma_chat.metering.running_call import SLICE_TOKENS, RunningCall, Wanted
from redoma_chat.model_channel import ModelChannel
from redoma_chat.sampling import Sampling
from redoma_kit.errors import InvalidField

NOTHING = Passage()
# What a tokenizer may put around a text to be embedded.
EXTRA_TOKENS = 4
# How long an answer that came to the end of its grant waits for the meter to say whether a limit is reached.
CUT_PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class CheckedPrompt:
    """A prompt that passed the checks, maybe masked, and the checks its answer has to pass."""

    prompt: Prompt
    tenant: str
    chain: Chain


class GuardedModel:
    """Generates with the checks of the caller's tenant on both sides, and embeds with those on the input."""

    def __init__(
        self,
        model: ModelChannel,
        checks: CheckSource,
        calls: MeteredCalls,
        measurements: AnswerMeasurements,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._checks = checks
        self._calls = calls
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
        self,
        checked: CheckedPrompt,
        sampling: Sampling,
        deadline: Deadline,
        already: Passage = NOTHING,
        settle: Callable[[Settlement], None] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Streams an answer as ModelChannel.generate does, with the output side of the checks applied.

        An answer that a check ends is Done with CONTENT_FILTER.

        Args:
            checked: The prompt.
            sampling: What the caller wishes.
            deadline: When the answer must have ended.
            already: The answer that is being continued.
            settle: Takes what the call used in the end, before the stream ends; None settles it at once.

        Raises:
            InvalidField: Log probabilities are asked for, and the checks hold text back.
            QuotaExceeded: A limit would be passed, or is reached by the answer.
            QuotaUnavailable: The meter does not answer.
            CredentialRevoked: The caller's credential was revoked meanwhile; TenantDisabled and others alike.
        """
        output = checked.chain.output_chain(already)
        if output is not None and sampling.logprobs:
            raise InvalidField("logprobs", "not to be had while your tenant has answers checked for patterns")
        asked_at = self._clock()
        waiting = True
        call = await self._begin(checked.prompt, sampling, deadline)
        self._measurements.answer_began()
        try:
            with call.endable():
                call.asked()
                answer = self._model.generate(checked.prompt, sampling, deadline.remaining_s, call.growing_grant)
                async with aclosing(answer) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            call.note(event.usage)
                            if waiting:
                                waiting = False
                                self._measurements.first_token(self._clock() - asked_at)
                            if output is not None:
                                event = output.feed(event)
                                if output.refused:
                                    yield event
                                    call.finish_reason = FinishReason.CONTENT_FILTER
                                    yield Done(FinishReason.CONTENT_FILTER, call.usage)
                                    return
                        elif isinstance(event, Started):
                            call.started(event.model, event.input_tokens)
                            event = replace(event, rate_limits=call.rate_limits)
                        else:
                            call.done(event.usage, event.finish_reason)
                            held = output.flush(event.usage) if output is not None else None
                            if held is not None:
                                yield held
                            if call.was_cut:
                                await call.check_cut(min(CUT_PATIENCE_S, deadline.remaining_s))
                        yield event
        except BaseException as error:
            call.broke(error)
            raise
        finally:
            self._measurements.answer_ended(checked.tenant, call.usage)
            self._calls.end(call, settle)

    async def embed(self, tenant: str, passages: Passages, deadline: Deadline) -> Embeddings:
        """Embeds what the input side of the checks lets through.

        Raises:
            InputRefused: A check refused it.
            ChecksUnavailable: The checks can't be had.
            QuotaExceeded: A limit would be passed.
            QuotaUnavailable: The meter does not answer.
        """
        chain = await self._checks.chain(tenant)
        checked = await chain.check_passages(passages, deadline.remaining_s)
        call = await self._begin_embedding(checked, deadline)
        try:
            with call.endable():
                call.asked()
                embeddings = await self._model.embed(checked, deadline.remaining_s)
                call.started(embeddings.model, embeddings.usage.input_tokens)
                call.done(embeddings.usage, FinishReason.STOP)
        except BaseException as error:
            call.broke(error)
            raise
        finally:
            self._measurements.embedded(tenant, call.usage)
            self._calls.end(call, None)
        return replace(embeddings, rate_limits=call.rate_limits)

    async def _begin(self, prompt: Prompt, sampling: Sampling, deadline: Deadline) -> RunningCall:
        count = prompt.count or await self._model.count_tokens(prompt, deadline.remaining_s)
        return await self._calls.begin(prompt.model, _wanted(count, sampling), deadline.remaining_s)

    async def _begin_embedding(self, passages: Passages, deadline: Deadline) -> RunningCall:
        texts = [item for item in passages.items if isinstance(item, str)]
        given = sum(len(item) for item in passages.items if not isinstance(item, str)) + EXTRA_TOKENS * len(texts)
        # No token is shorter than a byte.
        most = Wanted(given + sum(len(text.encode()) for text in texts), 0)
        try:
            return await self._calls.begin(passages.model, most, deadline.remaining_s)
        except QuotaExceeded:
            if not texts:
                raise
        # It may well fit if it is counted, which takes a round trip.
        prompt = Prompt(passages.model, (Turn(Role.USER, "\n".join(texts)),))
        counted = await self._model.count_tokens(prompt, deadline.remaining_s)
        return await self._calls.begin(passages.model, Wanted(given + counted.input_tokens, 0), deadline.remaining_s)


def _wanted(count: TokenCount, sampling: Sampling) -> Wanted:
    """Gives what an answer may use: together no more than a context window, whatever is left out of the prompt."""
    fits = count.input_tokens < count.context_tokens
    room = count.context_tokens - count.input_tokens if fits else count.context_tokens
    bound = sampling.max_output_tokens
    most = room if bound is None else min(bound, room)
    return Wanted(min(count.input_tokens, count.context_tokens), most, bound is None and most > SLICE_TOKENS)
