"""Whether anything that was computed for one tenant is reused for another."""

import statistics
from dataclasses import dataclass, field

from redoma_cli.conformance.check import Probes, Severity, Skipped, Unclear
from redoma_cli.conformance.lab import Lab, LabTenant
from redoma_cli.conformance.prompts import long_prompt
from redoma_cli.conformance.speech import GrpcSpeech, Speech, SseSpeech

ROUNDS, QUICK_ROUNDS = 3, 1
ANSWER_TOKENS = 2
# Time tells something only where computing takes this many times as long as reusing.
CLEAR = 3.0


@dataclass(slots=True)
class Times:
    """Seconds to the first token."""

    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)


class CacheProbe:
    """The same long prompt from two tenants."""

    id = "cache-probe"
    title = "A prompt that one tenant sent is computed anew for another"
    severity = Severity.CRITICAL
    why = "Whoever sees that a prompt is cached knows that someone else sent it, and can guess it word by word."
    alone = True

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Sends it twice as one tenant, so that the probe is known to see reuse, and then as the other."""
        times = Times()
        rounds = QUICK_ROUNDS if lab.settings.quick else ROUNDS
        for number in range(rounds):
            kind: type[Speech] = SseSpeech if number == rounds - 1 and rounds > 1 else GrpcSpeech
            probes.step(f"prompt {number + 1} of {rounds} over {kind.transport}")
            await self._round(lab, probes, kind, times)
        self._compare_times(probes, times)

    async def _round(self, lab: Lab, probes: Probes, kind: type[Speech], times: Times) -> None:
        # Tenants who have sent nothing yet: not even the chat template is theirs.
        first, second = await lab.tenant(), await lab.tenant()
        allowed, prompt = lab.settings.public_prefix_tokens, long_prompt(lab.rng)
        cold = await _ask(lab, first, prompt, kind)
        warm = await _ask(lab, first, prompt, kind)
        foreign = await _ask(lab, second, prompt, kind)
        told = f"{warm.heard.cached_tokens} of {warm.heard.input_tokens}"
        probes.measure(f"reused within a tenant, {kind.transport}", told)
        if warm.heard.cached_tokens <= allowed:
            raise Skipped(
                "Not even a tenant's own prompt is reused, or it is not told, so that reuse by others can't be seen."
            )
        probes.expect(
            foreign.heard.cached_tokens <= allowed,
            f"usage of another tenant's first call with the same prompt, {kind.transport}",
            f"at most {allowed} cached tokens",
            f"{foreign.heard.cached_tokens} of {foreign.heard.input_tokens} tokens were reused",
        )
        for speech, kept in ((cold, times.cold), (warm, times.warm), (foreign, times.foreign)):
            kept.append(speech.heard.ttft_s or 0.0)

    def _compare_times(self, probes: Probes, times: Times) -> None:
        cold, warm, foreign = (statistics.median(kept) for kept in (times.cold, times.warm, times.foreign))
        probes.measure("first token: cold", f"{cold * 1000:.0f} ms")
        probes.measure("first token: own prompt again", f"{warm * 1000:.0f} ms")
        probes.measure("first token: other's prompt", f"{foreign * 1000:.0f} ms")
        if cold < CLEAR * warm:
            probes.leave_out("reuse is not faster by enough here for time to tell of it")
            return
        probes.expect(
            foreign * CLEAR > cold,
            "time to the first token of another tenant's call with the same prompt",
            f"about as long as the first tenant's first ({cold * 1000:.0f} ms)",
            f"{foreign * 1000:.0f} ms, as for a prompt that is reused, whatever usage says",
        )


async def _ask(lab: Lab, tenant: LabTenant, prompt: str, kind: type[Speech]) -> Speech:
    speech = kind(tenant.caller, prompt, ANSWER_TOKENS, model=lab.settings.model).start()
    if not await speech.ended(lab.settings.answer_s) or not speech.heard.done:
        await speech.drop()
        raise Unclear(f"A prompt of some 1,000 tokens was not answered: {speech.heard.label}.")
    return speech
