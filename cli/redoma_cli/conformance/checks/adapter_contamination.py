"""Whether an adapter serves its owner alone, and what was computed under it nobody else."""

import asyncio
import time

from google.protobuf.field_mask_pb2 import FieldMask

from redoma.model.v1.engine_pb2 import (
    Adapter,
    GetEngineStateRequest,
    GetEngineStateResponse,
    ListUsageRecordsRequest,
    ListUsageRecordsResponse,
)
from redoma.tenant.v1.tenant_pb2 import (
    GetTenantRequest,
    GetTenantResponse,
    Tenant,
    UpdateTenantRequest,
    UpdateTenantResponse,
)
from redoma_cli.conformance.answer import OK
from redoma_cli.conformance.check import Probes, Severity, Skipped, Unclear
from redoma_cli.conformance.lab import PREFIX, Lab, LabTenant
from redoma_cli.conformance.prompts import long_prompt, short_prompt
from redoma_cli.conformance.speech import GrpcSpeech, Speech

ANSWER_TOKENS = 2
# Until a changed tenant is known everywhere.
KNOWN_S, POLL_S = 5.0, 0.2
# Two random prompts may begin with the same words.
CHANCE_TOKENS = 16
REFUSED = ("PERMISSION_DENIED", "NOT_FOUND", "FAILED_PRECONDITION", "INVALID_ARGUMENT")


class AdapterContamination:
    """Another's adapter, and the same prompt under the base model and under an adapter."""

    id = "adapter-contamination"
    title = "An adapter serves only its owner, and nothing computed under it is reused without it"
    severity = Severity.CRITICAL
    why = "An adapter is trained on its owner's data and repeats it; under a wrong cache an answer mixes two models."
    alone = False

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Tries what the adapters that are loaded allow."""
        state = (await lab.admin.must(GetEngineStateRequest(), GetEngineStateResponse)).state
        adapters = [adapter for model in state.models for adapter in model.adapters]
        if not adapters:
            raise Skipped("No adapter is loaded; `redoma engine adapter load` loads one.")
        probes.step("another tenant's adapter")
        await self._foreign(lab, probes, adapters[0])
        owned = [adapter for adapter in adapters if adapter.tenant.startswith(PREFIX)]
        owner = await self._owner(lab, owned[0]) if owned else None
        if owner is None:
            probes.leave_out(
                f"reuse across base and adapter: load an adapter whose manifest names the tenant {PREFIX}adapter, "
                "which this check plays"
            )
            return
        probes.step("the same prompt under base and adapter")
        try:
            await self._across(lab, probes, owner, owned[0])
        finally:
            await self._switch(lab, owner, "")

    async def _owner(self, lab: Lab, adapter: Adapter) -> LabTenant | None:
        """Gives the tenant of an adapter: made for this, or one that is kept for it; None if it was deleted."""
        answer = await lab.admin.ask(GetTenantRequest(name=f"tenants/{adapter.tenant}"), patient=True)
        if answer.code != OK:
            return await lab.tenant(adapter.tenant)
        tenant = GetTenantResponse.FromString(answer.bodies[0]).tenant
        return await lab.borrow(adapter.tenant) if tenant.state == Tenant.STATE_ACTIVE else None

    async def _foreign(self, lab: Lab, probes: Probes, adapter: Adapter) -> None:
        thief = await lab.tenant()
        wanted = Tenant(name=thief.name, isolation=Tenant.ISOLATION_SHARED_TUNED, adapter=adapter.digest)
        mask = FieldMask(paths=["isolation", "adapter"])
        answer = await lab.admin.ask(UpdateTenantRequest(tenant=wanted, update_mask=mask), patient=True)
        if answer.code != OK:
            # Refused already where it is set: then it can't be used either.
            where = "setting another tenant's adapter"
            probes.expect(answer.code in REFUSED, where, "refused, or refused when it is used", answer.label)
            return
        end = time.monotonic() + KNOWN_S
        while True:
            speech = await _heard(lab, thief, short_prompt(lab.rng))
            if not speech.heard.done or time.monotonic() > end:
                break
            await asyncio.sleep(POLL_S)
        reason = speech.heard.end.reason if speech.heard.end else ""
        probes.expect(
            reason == "ADAPTER_DENIED",
            f"a call under the adapter of {adapter.tenant} by another tenant",
            "PERMISSION_DENIED (ADAPTER_DENIED), and no fallback to the base model",
            speech.heard.label,
        )

    async def _across(self, lab: Lab, probes: Probes, owner: LabTenant, adapter: Adapter) -> None:
        under_base, under_adapter = long_prompt(lab.rng), long_prompt(lab.rng)
        await _heard(lab, owner, under_base)
        again = await _heard(lab, owner, under_base)
        if again.heard.cached_tokens <= CHANCE_TOKENS:
            raise Skipped("Not even a tenant's own prompt is reused, or it is not told, so that reuse can't be seen.")
        await self._switch(lab, owner, adapter.digest)
        await self._await_switch(lab, owner, adapter.digest)
        await self._look(lab, probes, owner, under_base, "computed under the base model, sent under the adapter")
        await _heard(lab, owner, under_adapter)
        await self._switch(lab, owner, "")
        await self._await_switch(lab, owner, "")
        await self._look(lab, probes, owner, under_adapter, "computed under the adapter, sent under the base model")

    async def _look(self, lab: Lab, probes: Probes, owner: LabTenant, prompt: str, what: str) -> None:
        # What any prompt shares with the earlier ones here: the chat template.
        shared = (await _heard(lab, owner, long_prompt(lab.rng))).heard.cached_tokens
        told = (await _heard(lab, owner, prompt)).heard
        probes.expect(
            told.cached_tokens <= shared + CHANCE_TOKENS,
            f"a prompt that was {what}",
            f"no more is reused than of any other prompt, {shared} tokens",
            f"{told.cached_tokens} of {told.input_tokens} tokens were",
        )

    async def _switch(self, lab: Lab, owner: LabTenant, adapter: str) -> None:
        isolation = Tenant.ISOLATION_SHARED_TUNED if adapter else Tenant.ISOLATION_SHARED
        wanted = Tenant(name=owner.name, isolation=isolation, adapter=adapter)
        mask = FieldMask(paths=["isolation", "adapter"])
        await lab.admin.must(UpdateTenantRequest(tenant=wanted, update_mask=mask), UpdateTenantResponse)

    async def _await_switch(self, lab: Lab, owner: LabTenant, adapter: str) -> None:
        """Returns once calls go where they were switched to."""
        end = time.monotonic() + KNOWN_S
        while True:
            await _heard(lab, owner, short_prompt(lab.rng))
            request = ListUsageRecordsRequest(tenant=owner.id, page_size=1)
            records = (await lab.admin.must(request, ListUsageRecordsResponse)).records
            if records and records[0].adapter == adapter:
                return
            if time.monotonic() > end:
                raise Unclear(f"Calls did not go to {adapter or 'the base model'} within {KNOWN_S:.0f} s.")
            await asyncio.sleep(POLL_S)


async def _heard(lab: Lab, tenant: LabTenant, prompt: str) -> Speech:
    speech = GrpcSpeech(tenant.caller, prompt, ANSWER_TOKENS, model=lab.settings.model).start()
    if not await speech.ended(lab.settings.answer_s):
        await speech.drop()
        raise Unclear(f"A call was not answered within {lab.settings.answer_s:.0f} s.")
    return speech
