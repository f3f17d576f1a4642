"""Whether a limit holds when many calls want the last of it at once."""

import asyncio
from collections.abc import Sequence

from redoma.tenant.v1.quota_pb2 import (
    GetQuotaRequest,
    GetQuotaResponse,
    Limits,
    Quota,
    UpdateQuotaRequest,
    UpdateQuotaResponse,
)
from redoma_cli.conformance.books import compare, settled_books
from redoma_cli.conformance.check import Probes, Severity, Unclear
from redoma_cli.conformance.lab import Lab, LabTenant
from redoma_cli.conformance.prompts import short_prompt
from redoma_cli.conformance.speech import GrpcSpeech, Speech, SseSpeech, drop_all

STREAMS, COVERED = 50, 20
MINUTE_CALLS, MINUTE_S = 3, 60.0
ANSWER_TOKENS = 16
PLENTY = 10_000_000
LIMIT = "tokens_per_month"
QUOTA_FAILURE = "google.rpc.QuotaFailure"
# Refusals for want of room, which say nothing of quotas.
BUSY = ("QUEUE_FULL", "DEADLINE_UNREACHABLE")


class QuotaExactness:
    """Fifty streams of one tenant against a month's tokens that cover twenty of them."""

    id = "quota-exactness"
    title = "A token limit holds under parallel streams, and refusals say which limit"
    severity = Severity.HIGH
    why = "A budget that parallel calls overrun is no budget; a refusal that is not typed can't be handled by programs."
    alone = True

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Sets the limit, asks for more than it covers, and looks at the books."""
        prompt = short_prompt(lab.rng)
        probes.step("what one call costs")
        cost = await self._cost(lab, prompt)
        tenant = await lab.tenant()
        limit = COVERED * cost
        limits = Limits(tokens_per_month=limit, requests_per_minute=PLENTY, tokens_per_minute=PLENTY)
        quota = Quota(name=f"{tenant.name}/quota", limits=limits)
        await lab.admin.must(UpdateQuotaRequest(quota=quota), UpdateQuotaResponse)
        probes.step(f"{STREAMS} streams against {limit} tokens")
        # Each asks in a conversation or connection of its own, so that they really meet.
        speeches = [
            (SseSpeech if number % 2 else GrpcSpeech)(tenant.caller, prompt, ANSWER_TOKENS, model=lab.settings.model)
            for number in range(STREAMS)
        ]
        try:
            async with asyncio.timeout(lab.settings.answer_s):
                await asyncio.gather(*(speech.start().ended(lab.settings.answer_s) for speech in speeches))
        except TimeoutError:
            raise Unclear(f"Not all of {STREAMS} streams ended within {lab.settings.answer_s:.0f} s.") from None
        finally:
            await drop_all(speeches)
        self._look_at_refusals(probes, speeches)
        probes.step("a limit by the minute")
        await self._by_the_minute(lab, probes)
        probes.step("waiting for the books")
        await self._look_at_books(lab, probes, tenant, limit, speeches)

    async def _cost(self, lab: Lab, prompt: str) -> int:
        tenant = await lab.tenant()
        costs = []
        for kind in (GrpcSpeech, SseSpeech):
            speech = kind(tenant.caller, prompt, ANSWER_TOKENS, model=lab.settings.model).start()
            if not await speech.ended(lab.settings.answer_s) or not speech.heard.done:
                await speech.drop()
                raise Unclear(f"A call without a limit was not answered: {speech.heard.label}.")
            costs.append(speech.heard.input_tokens + ANSWER_TOKENS)
        return max(costs)

    def _look_at_refusals(self, probes: Probes, speeches: Sequence[Speech]) -> None:
        served = [speech for speech in speeches if speech.heard.done]
        refused = [speech for speech in speeches if speech.heard.end and speech.heard.end.reason not in BUSY]
        probes.measure("streams served", str(len(served)))
        probes.measure("streams refused", str(len(refused)))
        probes.expect(
            0 < len(served) < STREAMS,
            f"{STREAMS} streams where the limit covers {COVERED}",
            "some are served and the rest refused",
            f"{len(served)} were served",
        )
        for speech in refused:
            self._look_at_refusal(probes, speech)
        told = [speech for speech in served if isinstance(speech, SseSpeech)]
        bare = [speech for speech in told if not _rates(speech)]
        probes.expect(
            not bare,
            "headers of REST answers of a tenant with limits by the minute",
            "x-ratelimit-* as OpenAI sends",
            f"{len(bare)} of {len(told)} had none",
        )

    async def _by_the_minute(self, lab: Lab, probes: Probes) -> None:
        """Calls more often than a minute allows: what OpenAI's clients wait for is in these headers."""
        tenant = await lab.tenant()
        quota = Quota(name=f"{tenant.name}/quota", limits=Limits(requests_per_minute=1))
        await lab.admin.must(UpdateQuotaRequest(quota=quota), UpdateQuotaResponse)
        for _ in range(MINUTE_CALLS):
            speech = SseSpeech(tenant.caller, short_prompt(lab.rng), 1, model=lab.settings.model).start()
            await speech.ended(lab.settings.answer_s)
            await speech.drop()
            if speech.heard.end is not None:
                break
        where = f"{MINUTE_CALLS} REST calls in a minute that allows one"
        end = speech.heard.end
        if (
            not probes.expect(end is not None and end.http_status == 429, where, "HTTP 429", speech.heard.label)
            or not end
        ):
            return
        probes.expect(end.reason == "QUOTA_EXCEEDED", where, "the error's code says so", end.label)
        soon = end.retry_after_s is not None and 0 < end.retry_after_s <= MINUTE_S
        probes.expect(soon, where, "a retry-after of at most a minute", f"it is {end.retry_after_s}")
        probes.expect(bool(_rates(speech)), where, "x-ratelimit-* on the refusal", "there are none")

    def _look_at_refusal(self, probes: Probes, speech: Speech) -> None:
        end = speech.heard.end
        if end is None:
            return
        where = f"a {speech.transport} stream over the limit"
        typed = end.code == "RESOURCE_EXHAUSTED" and end.reason == "QUOTA_EXCEEDED"
        if not probes.expect(typed, where, "RESOURCE_EXHAUSTED (QUOTA_EXCEEDED)", f"{end.label}: {end.message}"):
            return
        if isinstance(speech, GrpcSpeech):
            probes.expect(QUOTA_FAILURE in end.details, where, "a QuotaFailure in the status", f"{list(end.details)}")
            named = dict(end.metadata).get("limit", "")
            probes.expect(named == LIMIT, where, f"the refusal names {LIMIT}", f"it names {named or 'nothing'}")
        elif end.http_status:
            probes.expect(end.http_status == 429, where, "HTTP 429", f"HTTP {end.http_status}")
            probes.expect(end.retry_after_s is not None, where, "a retry-after in seconds", "there is none")
            probes.expect(bool(_rates(speech)), where, "x-ratelimit-* on the refusal", "there are none")

    async def _look_at_books(
        self, lab: Lab, probes: Probes, tenant: LabTenant, limit: int, speeches: Sequence[Speech]
    ) -> None:
        books = await settled_books(lab, tenant, sum(speech.heard.done for speech in speeches))
        probes.measure("tokens booked", f"{books.booked_tokens} of {limit}")
        probes.expect(
            books.booked_tokens <= limit,
            "tokens settled, by the ledger",
            f"never more than the limit, {limit}",
            f"{books.booked_tokens}",
        )
        probes.expect(
            books.booked_tokens >= limit // 2,
            "how much of the limit can be used",
            "calls are refused only where they would pass it",
            f"{books.booked_tokens} of {limit} when {STREAMS} calls wanted it",
        )
        answer = await lab.admin.must(GetQuotaRequest(name=f"{tenant.name}/quota"), GetQuotaResponse)
        state = next((state for state in answer.quota.states if state.limit == LIMIT), None)
        used = (state.used, state.reserved) if state else None
        probes.expect(
            used == (books.booked_tokens, 0),
            "the quota, once all has settled",
            f"{books.booked_tokens} used and nothing reserved",
            f"{used[0]} used, {used[1]} reserved" if used else f"it does not tell of {LIMIT}",
        )
        compare(books, probes, lab.settings.replicas)


def _rates(speech: Speech) -> list[str]:
    return [name for name, _ in speech.heard.headers if name.startswith("x-ratelimit-")]
