"""Whether every stream ends, and leaves nothing behind when its reader goes."""

import asyncio
import time

from redoma.chat.v1.conversation_pb2 import (
    CreateConversationRequest,
    CreateConversationResponse,
    ListConversationsRequest,
    ListConversationsResponse,
    ListMessagesRequest,
    ListMessagesResponse,
)
from redoma.chat.v1.message_pb2 import Message, SendMessageRequest
from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma.model.v1.engine_pb2 import GetEngineStateRequest, GetEngineStateResponse
from redoma_cli.conformance.check import Probes, Severity, Skipped, Unclear
from redoma_cli.conformance.http_client import NoAnswer
from redoma_cli.conformance.lab import Lab, LabTenant
from redoma_cli.conformance.prompts import short_prompt
from redoma_cli.conformance.speech import GrpcSpeech, Speech, SseSpeech, drop_all

STREAMS = 8
ANSWER_TOKENS = 16
DEADLINE_S, DEADLINE_MARGIN_S, DEADLINE_WAIT_S = 2.0, 1.0, 8.0
POLL_S = 0.1
STREAM_MARGIN_S = 10.0


class StreamEnd:
    """Streams that are bounded, that run into a deadline, and whose reader goes away."""

    id = "stream-end"
    title = "Every stream ends, with an end that is told, and a reader who goes frees its place"
    severity = Severity.HIGH
    why = "A stream that never ends holds a place that others wait for, and lets no service drain."
    alone = False

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Tries what can be seen from outside of a drain; a SIGTERM can't be sent from here."""
        tenant = await lab.tenant()
        probes.step(f"{STREAMS} bounded streams")
        await self._bounded(lab, probes, tenant)
        probes.step("a deadline")
        await self._deadline(lab, probes, tenant)
        for kind in (GrpcSpeech, SseSpeech):
            probes.step(f"readers who go away over {kind.transport}")
            await self._gone(lab, probes, await lab.tenant(), kind)
        if lab.settings.max_stream_s is None:
            probes.leave_out("the longest stream: pass --max-stream to wait for it")
        else:
            probes.step(f"a stream of up to {lab.settings.max_stream_s:.0f} s")
            await self._longest(lab, probes, tenant, lab.settings.max_stream_s)

    async def _bounded(self, lab: Lab, probes: Probes, tenant: LabTenant) -> None:
        kinds: list[type[Speech]] = [GrpcSpeech, SseSpeech] * (STREAMS // 2)
        speeches = [
            kind(tenant.caller, short_prompt(lab.rng), ANSWER_TOKENS, model=lab.settings.model).start()
            for kind in kinds
        ]
        # A waiting call is no hanging one: what counts from the first token on is that it ends.
        await asyncio.gather(*(speech.ended(lab.settings.answer_s) for speech in speeches))
        await drop_all(speeches)
        for speech in speeches:
            probes.expect(
                speech.heard.done,
                f"a {speech.transport} stream of {ANSWER_TOKENS} tokens",
                f"it ends with `done` within {lab.settings.answer_s:.0f} s",
                speech.heard.label,
            )

    async def _deadline(self, lab: Lab, probes: Probes, tenant: LabTenant) -> None:
        # By grpc-web with nothing but the header: a gRPC client would end the call at its deadline by itself.
        made = await tenant.caller.must(CreateConversationRequest(parent="tenants/-"), CreateConversationResponse)
        request = SendMessageRequest(
            conversation=made.conversation.name,
            content=short_prompt(lab.rng),
            sampling=SamplingOptions(ignore_eos=True),
        )
        begun = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_WAIT_S):
                ended = (await tenant.caller.web(request, (("grpc-timeout", f"{DEADLINE_S * 1000:.0f}m"),))).label
        except TimeoutError:
            ended = f"it still ran after {DEADLINE_WAIT_S:.0f} s"
        except (NoAnswer, OSError) as error:
            ended = f"the connection broke: {error}"
        took_s = time.monotonic() - begun
        in_time = ended.startswith("DEADLINE_EXCEEDED") and took_s <= DEADLINE_S + DEADLINE_MARGIN_S
        probes.expect(
            in_time or (ended == "OK" and took_s <= DEADLINE_S + DEADLINE_MARGIN_S),
            f"an endless stream with a deadline of {DEADLINE_S:g} s",
            f"DEADLINE_EXCEEDED within {DEADLINE_S + DEADLINE_MARGIN_S:g} s",
            f"{ended}, after {took_s:.1f} s",
        )

    async def _gone(self, lab: Lab, probes: Probes, tenant: LabTenant, kind: type[Speech]) -> None:
        speeches = [
            kind(tenant.caller, short_prompt(lab.rng), 0, endless=True, model=lab.settings.model).start()
            for _ in range(STREAMS // 2)
        ]
        flowed = await asyncio.gather(*(speech.flows(1, lab.settings.answer_s) for speech in speeches))
        if not any(flowed):
            await drop_all(speeches)
            raise Unclear(f"No stream came to its first token: {speeches[0].heard.label}.")
        await drop_all(speeches)
        try:
            left = await self._left_running(lab, tenant)
        except Skipped as reason:
            probes.leave_out(f"whether places are freed: {reason}")
        else:
            probes.expect(
                left == 0,
                f"{len(speeches)} readers of {kind.transport} streams gone, by the engine's state",
                f"nothing of the tenant runs or waits within {lab.settings.freed_s:g} s",
                f"{left} requests still do",
            )
        if kind is GrpcSpeech:
            streaming = await self._left_streaming(lab, tenant)
            probes.expect(
                streaming == 0,
                "the answers they had begun to read",
                f"saved as cut within {lab.settings.freed_s:g} s",
                f"{streaming} are still said to stream",
            )

    async def _left_running(self, lab: Lab, tenant: LabTenant) -> int:
        end = time.monotonic() + lab.settings.freed_s
        while True:
            state = (await lab.admin.must(GetEngineStateRequest(), GetEngineStateResponse)).state
            left = sum(
                mine.running + mine.waiting + mine.preempted
                for model in state.models
                for mine in model.tenants
                if mine.tenant == tenant.id
            )
            if left == 0 or time.monotonic() > end:
                return left
            await asyncio.sleep(POLL_S)

    async def _left_streaming(self, lab: Lab, tenant: LabTenant) -> int:
        end = time.monotonic() + lab.settings.freed_s
        while True:
            page = await tenant.caller.must(ListConversationsRequest(parent="tenants/-"), ListConversationsResponse)
            left = 0
            for conversation in page.conversations:
                request = ListMessagesRequest(parent=conversation.name)
                messages = (await tenant.caller.must(request, ListMessagesResponse)).messages
                left += any(message.state == Message.STATE_STREAMING for message in messages)
            if left == 0 or time.monotonic() > end:
                return left
            await asyncio.sleep(POLL_S)

    async def _longest(self, lab: Lab, probes: Probes, tenant: LabTenant, max_stream_s: float) -> None:
        speech = GrpcSpeech(tenant.caller, short_prompt(lab.rng), 0, endless=True, model=lab.settings.model).start()
        ended = await speech.ended(max_stream_s + STREAM_MARGIN_S)
        await speech.drop()
        probes.expect(
            ended, "an endless stream", f"it ends within {max_stream_s:.0f} s, the longest promised", speech.heard.label
        )
