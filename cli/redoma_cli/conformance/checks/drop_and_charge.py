"""Whether what was generated for clients that went away is paid for."""

import asyncio

from redoma_cli.conformance.books import compare, settled_books
from redoma_cli.conformance.check import Probes, Severity, Unclear
from redoma_cli.conformance.lab import Lab
from redoma_cli.conformance.prompts import short_prompt
from redoma_cli.conformance.speech import GrpcSpeech, Speech, SseSpeech

STREAMS, QUICK_STREAMS = 12, 6
MOST_PIECES = 8


class DropAndCharge:
    """Clients drop in the middle of their answers."""

    id = "drop-and-charge"
    title = "An answer whose reader goes away is booked for what was generated, to the token"
    severity = Severity.HIGH
    why = "If a dropped stream is free, a client that always drops pays nothing, and others pay for what it takes."
    alone = False

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Drops some, lets others end, and compares the books."""
        tenant = await lab.tenant()
        count = QUICK_STREAMS if lab.settings.quick else STREAMS
        kinds: list[type[Speech]] = [GrpcSpeech, SseSpeech] * (count // 2)
        probes.step(f"{count} streams, dropped one by one")
        speeches = [
            kind(tenant.caller, short_prompt(lab.rng), 0, endless=True, model=lab.settings.model) for kind in kinds
        ]
        await asyncio.gather(*(self._drop(lab, speech) for speech in speeches))
        flowed = [speech for speech in speeches if speech.heard.pieces]
        if not flowed:
            raise Unclear(f"No stream came to its first token: {speeches[0].heard.label}.")
        probes.step("waiting for the books")
        books = await settled_books(lab, tenant, len(flowed))
        booked = sum(1 for counts in books.ledger.values() if counts["output_tokens"] > 0)
        probes.expect(
            booked >= len(flowed),
            f"{len(flowed)} streams dropped after some text",
            f"{len(flowed)} calls booked with output tokens",
            f"{booked} are, {lab.settings.settle_s:.0f} s after the last drop",
        )
        seen = sum(speech.heard.output_tokens or speech.heard.pieces for speech in flowed)
        output = sum(counts["output_tokens"] for counts in books.ledger.values())
        probes.measure("output tokens seen by clients", str(seen))
        probes.measure("output tokens booked", str(output))
        probes.expect(
            output >= seen, "tokens that clients had seen", f"at least {seen} output tokens booked", f"{output} are"
        )
        compare(books, probes, lab.settings.replicas)

    async def _drop(self, lab: Lab, speech: Speech) -> None:
        await speech.start().flows(lab.rng.randint(1, MOST_PIECES), lab.settings.answer_s)
        await speech.drop()
