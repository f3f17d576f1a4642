"""PrivacyService on the wire."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from redoma.tenant.v1 import privacy_pb2, privacy_pb2_grpc
from redoma_kit.errors import InvalidField
from redoma_kit.identity import current_identity
from redoma_tenant.names import is_principal, parse_erasure_name, parse_parent, tenant_name
from redoma_tenant.privacy.erasures import Erasure, Erasures, ErasureState, Step, Subject
from redoma_tenant.privacy.export import Exports
from redoma_tenant.servicers.times import timestamp

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

STATES = {
    ErasureState.PENDING: privacy_pb2.Erasure.STATE_PENDING,
    ErasureState.COMPLETE: privacy_pb2.Erasure.STATE_COMPLETE,
}


class PrivacyServicer(privacy_pb2_grpc.PrivacyServiceServicer):
    """Exports and erasures, for operators and for a tenant's owners."""

    def __init__(self, exports: Exports, erasures: Erasures) -> None:
        self._exports = exports
        self._erasures = erasures

    async def ExportData(
        self, request: privacy_pb2.ExportDataRequest, context: "Context"
    ) -> AsyncIterator[privacy_pb2.ExportDataResponse]:
        """Streams an archive."""
        async with aclosing(self._exports.export(_subject(request.parent, request.principal))) as pieces:
            async for piece in pieces:
                yield privacy_pb2.ExportDataResponse(data=piece)

    async def EraseData(
        self, request: privacy_pb2.EraseDataRequest, context: "Context"
    ) -> privacy_pb2.EraseDataResponse:
        """Begins an erasure."""
        erasure = await self._erasures.begin(_subject(request.parent, request.principal), request.purpose)
        return privacy_pb2.EraseDataResponse(erasure=_message(erasure))

    async def GetErasure(
        self, request: privacy_pb2.GetErasureRequest, context: "Context"
    ) -> privacy_pb2.GetErasureResponse:
        """Gets an erasure."""
        tenant, erasure_id = parse_erasure_name("name", request.name, current_identity())
        return privacy_pb2.GetErasureResponse(erasure=_message(await self._erasures.get(tenant, erasure_id)))

    async def ListErasures(
        self, request: privacy_pb2.ListErasuresRequest, context: "Context"
    ) -> privacy_pb2.ListErasuresResponse:
        """Lists a tenant's erasures."""
        tenant = parse_parent("parent", request.parent, current_identity())
        page = await self._erasures.list(tenant, request.page_size, request.page_token)
        return privacy_pb2.ListErasuresResponse(
            erasures=[_message(erasure) for erasure in page.items], next_page_token=page.next_page_token
        )


def _subject(parent: str, principal: str) -> Subject:
    tenant = parse_parent("parent", parent, current_identity())
    if principal and not is_principal(principal, tenant):
        raise InvalidField("principal", f"must name a key or a user of {tenant_name(tenant)}, or be empty.")
    return Subject(tenant, principal)


def _message(erasure: Erasure) -> privacy_pb2.Erasure:
    return privacy_pb2.Erasure(
        name=erasure.name,
        principal=erasure.subject.principal,
        purpose=erasure.purpose,
        state=STATES[erasure.state],
        steps=[_step(step) for step in erasure.steps],
        create_time=timestamp(erasure.create_time),
        complete_time=timestamp(erasure.complete_time),
        certificate=erasure.certificate,
    )


def _step(step: Step) -> privacy_pb2.ErasureStep:
    return privacy_pb2.ErasureStep(
        place=step.place,
        acknowledge_time=timestamp(step.acknowledge_time),
        erased=dict(step.erased or {}),
        problem=step.problem,
    )
