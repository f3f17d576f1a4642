"""OperationService on the wire."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from redoma.provisioner.v1 import operation_pb2, operation_pb2_grpc
from redoma_kit.errors import InvalidField
from redoma_kit.interceptors.drain import Drain
from redoma_provisioner.operations.operation import Operation, OperationState
from redoma_provisioner.operations.operations import Operations
from redoma_provisioner.servicers.times import timestamp
from redoma_provisioner.servicers.watching import until_drained

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

OPERATION_ID = re.compile(r"[0-9a-f]{32}")
TARGET = re.compile(r"[\x21-\x7e]{0,255}")
STATES = {
    OperationState.PENDING: operation_pb2.Operation.STATE_PENDING,
    OperationState.RUNNING: operation_pb2.Operation.STATE_RUNNING,
    OperationState.SUCCEEDED: operation_pb2.Operation.STATE_SUCCEEDED,
    OperationState.FAILED: operation_pb2.Operation.STATE_FAILED,
    OperationState.CANCELLED: operation_pb2.Operation.STATE_CANCELLED,
}


class OperationServicer(operation_pb2_grpc.OperationServiceServicer):
    """Work that takes longer than a call, for operators."""

    def __init__(self, operations: Operations, drain: Drain) -> None:
        self._operations = operations
        self._drain = drain

    async def GetOperation(
        self, request: operation_pb2.GetOperationRequest, context: "Context"
    ) -> operation_pb2.GetOperationResponse:
        """Gets an operation."""
        operation = await self._operations.get(_id(request.name))
        return operation_pb2.GetOperationResponse(operation=operation_message(operation))

    async def ListOperations(
        self, request: operation_pb2.ListOperationsRequest, context: "Context"
    ) -> operation_pb2.ListOperationsResponse:
        """Lists operations, the newest first."""
        if not TARGET.fullmatch(request.target):
            raise InvalidField("target", "must be the name of a resource, such as sites/hospital-a, or empty.")
        page = await self._operations.list(request.target, request.page_size, request.page_token)
        return operation_pb2.ListOperationsResponse(
            operations=[operation_message(operation) for operation in page.operations],
            next_page_token=page.next_page_token,
        )

    async def WatchOperation(
        self, request: operation_pb2.WatchOperationRequest, context: "Context"
    ) -> AsyncGenerator[operation_pb2.WatchOperationResponse, None]:
        """Sends an operation as it is, then at each change, until it has ended."""
        changes = self._operations.watch(_id(request.name))
        async with aclosing(until_drained(changes, self._drain)) as operations:
            async for operation in operations:
                yield operation_pb2.WatchOperationResponse(operation=operation_message(operation))

    async def CancelOperation(
        self, request: operation_pb2.CancelOperationRequest, context: "Context"
    ) -> operation_pb2.CancelOperationResponse:
        """Asks an operation to end."""
        operation = await self._operations.cancel(_id(request.name))
        return operation_pb2.CancelOperationResponse(operation=operation_message(operation))


def operation_message(operation: Operation) -> operation_pb2.Operation:
    """Gives an operation as protobuf has it."""
    message = operation_pb2.Operation(
        name=operation.name,
        kind=operation.kind,
        target=operation.target,
        state=STATES[operation.state],
        steps=[
            operation_pb2.OperationStep(
                title=step.title, state=STATES[step.state], done=step.done, total=step.total, unit=step.unit
            )
            for step in operation.steps
        ],
        create_time=timestamp(operation.create_time),
        end_time=timestamp(operation.end_time),
        creator=operation.creator,
        cancel_requested=operation.cancel_requested,
    )
    if operation.error_reason:
        message.error.reason, message.error.message = operation.error_reason, operation.error_message
    return message


def _id(name: str) -> str:
    collection, _, operation = name.partition("/")
    if collection != "operations" or not OPERATION_ID.fullmatch(operation):
        raise InvalidField("name", "must have the form operations/{operation}.")
    return operation
