"""Whether an adapter serves its owner alone, and what was computed under it nobody else."""

import asyncio
import time
from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask

from redoma.model.v1.engine_pb2 import (
    Adapter,
    GetEngineStateRequest,
    GetEngineStateResponse,
    ListUsageRecordsRequest,
    ListUsageRecordsResponse,
)
from redoma.tenant.v1.tenant_pb2 import GetTenantRequest, Tenant, UpdateTenantRequest, UpdateTenantResponse
from redoma_cli.conformance.answer import OK
from redoma_cli.conformance.check import Probes, Severity, Skipped, Unclear
from redoma_cli.conformance.lab import PREFIX, Lab, LabTenant
from redoma_cli.conformance.prompts import long_prompt, short_prompt
from redoma_cli.conformance.speech import GrpcSpeech, Speech

ANSWER_TOKENS = 2
# Until a changed tenant is known everywhere.
KNOWN_S, POLL_S = 5.0, 0.2
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
        if not owned or await self._exists(lab, owned[0].tenant):
            probes.leave_out(
                "reuse across base and adapter: load an adapter whose manifest names a tenant that does not exist, "
                f"such as {PREFIX}adapter; the check then plays that tenant"
            )
            return
        probes.step("the same prompt under base and adapter")
        await self._across(lab, probes, owned[0])

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

    async def _exists(self, lab: Lab, tenant: str) -> bool:
        return (await lab.admin.ask(GetTenantRequest(name=f"tenants/{tenant}"), patient=True)).code == OK

    async def _across(self, lab: Lab, probes: Probes, adapter: Adapter) -> None:
        owner = await lab.tenant(adapter.tenant)
        prompt = long_prompt(lab.rng)
        base = [await _heard(lab, owner, prompt) for _ in range(2)]
        if base[1].heard.cached_tokens == 0:
            raise Skipped("Not even a tenant's own prompt is reused, or it is not told, so that reuse can't be seen.")
        await self._switch(lab, owner, adapter.digest)
        tuned = await self._settled(lab, owner, prompt, adapter.digest)
        probes.expect(
            tuned[0].heard.cached_tokens <= lab.settings.public_prefix_tokens,
            "a prompt that was computed under the base model, sent under the adapter",
            "nothing is reused",
            f"{tuned[0].heard.cached_tokens} of {tuned[0].heard.input_tokens} tokens were",
        )
        other = long_prompt(lab.rng)
        await _heard(lab, owner, other)
        await self._switch(lab, owner, "")
        back = await self._settled(lab, owner, other, "")
        probes.expect(
            2 * back[0].heard.cached_tokens < base[1].heard.cached_tokens,
            "a prompt that was computed under the adapter, sent under the base model",
            "nothing but what the base model had computed is reused",
            f"{back[0].heard.cached_tokens} of {back[0].heard.input_tokens} tokens were",
        )

    async def _switch(self, lab: Lab, owner: LabTenant, adapter: str) -> None:
        isolation = Tenant.ISOLATION_SHARED_TUNED if adapter else Tenant.ISOLATION_SHARED
        wanted = Tenant(name=owner.name, isolation=isolation, adapter=adapter)
        mask = FieldMask(paths=["isolation", "adapter"])
        await lab.admin.must(UpdateTenantRequest(tenant=wanted, update_mask=mask), UpdateTenantResponse)

    async def _settled(self, lab: Lab, owner: LabTenant, prompt: str, adapter: str) -> Sequence[Speech]:
        """Waits with other prompts until calls go where they were switched to, and then sends this one."""
        end = time.monotonic() + KNOWN_S
        while True:
            await _heard(lab, owner, short_prompt(lab.rng))
            request = ListUsageRecordsRequest(tenant=owner.id, page_size=1)
            records = (await lab.admin.must(request, ListUsageRecordsResponse)).records
            if records and records[0].adapter == adapter:
                return [await _heard(lab, owner, prompt)]
            if time.monotonic() > end:
                raise Unclear(f"Calls did not go to {adapter or 'the base model'} within {KNOWN_S:.0f} s.")
            await asyncio.sleep(POLL_S)


async def _heard(lab: Lab, tenant: LabTenant, prompt: str) -> Speech:
    speech = GrpcSpeech(tenant.caller, prompt, ANSWER_TOKENS, model=lab.settings.model).start()
    if not await speech.ended(lab.settings.answer_s):
        await speech.drop()
        raise Unclear(f"A call was not answered within {lab.settings.answer_s:.0f} s.")
    return speech
