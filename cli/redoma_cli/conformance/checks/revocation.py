"""Whether taking a key or a tenant out of service takes effect at once, running streams included."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from redoma.chat.v1.conversation_pb2 import ListConversationsRequest
from redoma.tenant.v1.api_key_pb2 import RevokeApiKeyRequest, RevokeApiKeyResponse
from redoma.tenant.v1.tenant_pb2 import (
    DisableTenantRequest,
    DisableTenantResponse,
    EnableTenantRequest,
    EnableTenantResponse,
)
from redoma_cli.conformance.answer import OK
from redoma_cli.conformance.caller import Caller
from redoma_cli.conformance.check import Probes, Severity, Unclear
from redoma_cli.conformance.http_client import NoAnswer
from redoma_cli.conformance.lab import Lab, LabTenant
from redoma_cli.conformance.prompts import short_prompt
from redoma_cli.conformance.speech import GrpcSpeech, Speech, SseSpeech

POLL_S = 0.05
# After the promised time, each on a connection of its own, so that each replica of the gate is likely asked.
LATER_CALLS = 8
WATCH_S = 1.0
OPENAI_SAME = {"CREDENTIAL_REVOKED", "CREDENTIAL_INVALID"}


class Revocation:
    """Streams and calls of a key that is revoked, and of a tenant that is disabled."""

    id = "revocation"
    title = "A revoked key and a disabled tenant are refused everywhere within a second, running streams included"
    severity = Severity.CRITICAL
    why = "Who revokes a stolen key must be able to rely on it: each second longer is the thief's."
    alone = True

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Revokes a key and then disables a tenant, while streams of theirs run, and a bystander's too."""
        tenant, bystander = await lab.tenant(), await lab.tenant()
        key = await lab.key(tenant.name)
        admin = lab.admin

        async def revoke() -> None:
            await admin.must(RevokeApiKeyRequest(name=key.name), RevokeApiKeyResponse)

        async def disable() -> None:
            await admin.must(DisableTenantRequest(name=tenant.name), DisableTenantResponse)

        probes.step("revoking a key")
        watch = _Watch(lab, probes, "a revoked key", "CREDENTIAL_REVOKED")
        await watch.run(lab.caller(key.secret), revoke, bystander)
        answer = await tenant.caller.ask(ListConversationsRequest(parent="tenants/-"), patient=True)
        probes.expect(answer.code == OK, "the tenant's other key after that", "it works", answer.label)
        probes.step("disabling a tenant")
        watch = _Watch(lab, probes, "a disabled tenant", "TENANT_DISABLED")
        await watch.run(tenant.caller, disable, bystander)
        await self._enable(lab, probes, tenant)

    async def _enable(self, lab: Lab, probes: Probes, tenant: LabTenant) -> None:
        await lab.admin.must(EnableTenantRequest(name=tenant.name), EnableTenantResponse)
        end = time.monotonic() + lab.settings.revoke_s + lab.settings.revoke_margin_s
        while True:
            answer = await tenant.caller.ask(ListConversationsRequest(parent="tenants/-"), patient=True)
            if answer.code == OK or time.monotonic() > end:
                break
            await asyncio.sleep(POLL_S)
        probes.expect(answer.code == OK, "the tenant's key once it is enabled", "it works again", answer.label)


class _Watch:
    """What a caller can still do after he was taken out of service."""

    def __init__(self, lab: Lab, probes: Probes, whom: str, reason: str) -> None:
        self._lab = lab
        self._probes = probes
        self._whom = whom
        self._reason = reason
        self._allowed_s = lab.settings.revoke_s + lab.settings.revoke_margin_s

    async def run(self, caller: Caller, take_out: Callable[[], Awaitable[None]], bystander: LabTenant) -> None:
        """Lets streams run, takes the caller out, and watches what still goes on."""
        streams = [_Persistent(self._lab, kind, caller) for kind in (GrpcSpeech, SseSpeech)]
        other = _Persistent(self._lab, GrpcSpeech, bystander.caller)
        try:
            for stream in (*streams, other):
                await stream.begin()
            await take_out()
            revoked_at = time.monotonic()
            await self._look_at_calls(caller, revoked_at)
            # As long as this after it a text must not come, and the bystander's must.
            await asyncio.sleep(max(0.0, revoked_at + self._allowed_s + WATCH_S - time.monotonic()))
            for stream in streams:
                self._look_at_stream(stream, revoked_at)
            self._probes.expect(
                (other.last_text_at or 0.0) > revoked_at + self._allowed_s,
                f"a stream of another tenant beside {self._whom}",
                "it goes on",
                f"it stopped: {other.label}",
            )
        finally:
            for stream in (*streams, other):
                await stream.close()

    async def _look_at_calls(self, caller: Caller, revoked_at: float) -> None:
        last_ok = {"gRPC": 0.0, "REST": 0.0}
        refusal = ""
        while time.monotonic() < revoked_at + self._allowed_s + WATCH_S:
            begun = time.monotonic() - revoked_at
            answer = await caller.ask(ListConversationsRequest(parent="tenants/-"))
            if answer.code == OK:
                last_ok["gRPC"] = begun
            # Later ones may be refused for being many.
            refusal = refusal or answer.reason
            if (await self._rest(caller)) == OK:
                last_ok["REST"] = begun
            await asyncio.sleep(POLL_S)
        for transport, last in last_ok.items():
            self._probes.measure(f"last call of {self._whom} taken, {transport}", f"{last * 1000:.0f} ms")
            self._probes.expect(
                last <= self._allowed_s,
                f"calls of {self._whom} over {transport}",
                f"refused from {self._allowed_s:g} s after the answer on",
                f"one that began {last:.2f} s after it was taken",
            )
        self._probes.expect(
            refusal == self._reason,
            f"a call of {self._whom}",
            f"refused with {self._reason}",
            refusal or "it was taken",
        )
        taken = [answer for answer in [await self._fresh(caller) for _ in range(LATER_CALLS)] if answer == OK]
        self._probes.expect(
            not taken,
            f"{LATER_CALLS} calls of {self._whom} on fresh connections, later",
            "all refused",
            f"{len(taken)} were taken: not every gate knows of it",
        )

    async def _rest(self, caller: Caller) -> str:
        try:
            return (await caller.rest("GET", "/v1/models")).code
        except (NoAnswer, OSError, TimeoutError):
            return "UNAVAILABLE"

    async def _fresh(self, caller: Caller) -> str:
        fresh = Caller(caller.edge, caller.key)
        try:
            return (await fresh.ask(ListConversationsRequest(parent="tenants/-"))).code
        finally:
            await fresh.close()

    def _look_at_stream(self, stream: "_Persistent", revoked_at: float) -> None:
        where = f"a {stream.transport} stream of {self._whom}"
        last_s = max(0.0, (stream.last_text_at or 0.0) - revoked_at)
        self._probes.measure(f"last text of {where}", f"{last_s * 1000:.0f} ms")
        self._probes.expect(
            last_s <= self._allowed_s and stream.refused,
            where,
            f"ended by {self._allowed_s:g} s after the answer",
            f"text came {last_s:.2f} s after it; {stream.label}" if last_s else f"it did not end: {stream.label}",
        )
        # OpenAI's clients know one code for every key that is refused.
        same = stream.transport == SseSpeech.transport and {self._reason, stream.reason} == OPENAI_SAME
        told = same or stream.reason in (self._reason, "")
        self._probes.expect(told, where, f"its end says {self._reason}", f"it says {stream.reason}")


class _Persistent:
    """A stream that is asked for anew whenever it comes to its proper end, until it is refused."""

    def __init__(self, lab: Lab, kind: type[Speech], caller: Caller) -> None:
        self.transport = kind.transport
        self.last_text_at: float | None = None
        self._lab = lab
        self._kind = kind
        self._caller = caller
        self._speech: Speech | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()

    async def begin(self) -> None:
        """Returns once it flows.

        Raises:
            Unclear: It does not.
        """
        self._task = asyncio.create_task(self._keep_up())
        try:
            async with asyncio.timeout(self._lab.settings.answer_s):
                await self._begun.wait()
        except TimeoutError:
            raise Unclear(f"A {self.transport} stream did not begin: {self.label}.") from None

    @property
    def refused(self) -> bool:
        """Whether it ended otherwise than properly."""
        return self._speech is not None and self._speech.heard.end is not None

    @property
    def reason(self) -> str:
        """Why it ended; empty while it has not."""
        end = self._speech.heard.end if self._speech else None
        return "" if end is None else end.reason or end.code

    @property
    def label(self) -> str:
        """How it stands, for people."""
        return self._speech.heard.label if self._speech else "it was not asked for"

    async def close(self) -> None:
        """Goes away."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep_up(self) -> None:
        while not self.refused:
            speech = self._kind(
                self._caller, short_prompt(self._lab.rng), 0, endless=True, model=self._lab.settings.model
            )
            self._speech = speech.start()
            try:
                while await speech.flows(speech.heard.pieces + 1, self._lab.settings.answer_s):
                    self.last_text_at = speech.heard.last_at
                    self._begun.set()
            finally:
                await speech.drop()
