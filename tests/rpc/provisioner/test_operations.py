"""OperationService as operators call it, and operations that outlive the process that began them."""

import asyncio
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from redoma.provisioner.v1 import network_pb2, operation_pb2
from redoma_kit.database import PLATFORM
from redoma_provisioner.errors import SiteUnreachable
from redoma_provisioner.store.schema import OPERATIONS as TABLE
from tests.rpc.provisioner.network_site import NETWORK, OPERATIONS, NetworkSite, utc_now
from tests.rpc.provisioner.test_network import reason_of

SITE = "hospital-a"
RUNNING, SUCCEEDED = operation_pb2.Operation.STATE_RUNNING, operation_pb2.Operation.STATE_SUCCEEDED
FAILED, CANCELLED = operation_pb2.Operation.STATE_FAILED, operation_pb2.Operation.STATE_CANCELLED


async def rotate(network: NetworkSite) -> operation_pb2.Operation:
    """Begins to rotate a site's certificates."""
    request = network_pb2.RotateCertificatesRequest(name=f"sites/{SITE}")
    response = await network.call(f"{NETWORK}RotateCertificates", request)
    operation: operation_pb2.Operation = response.operation
    return operation


async def watch(network: NetworkSite, name: str, until: int | None = None) -> list[operation_pb2.Operation]:
    """Gives an operation at each change, to its end or until it is in a state."""
    call = network.call(f"{OPERATIONS}WatchOperation", operation_pb2.WatchOperationRequest(name=name))
    seen = []
    async for response in call:
        seen.append(response.operation)
        if response.operation.state == until:
            call.cancel()
            break
    return seen


async def cancel(network: NetworkSite, name: str) -> Any:
    """Cancels an operation."""
    return await network.call(f"{OPERATIONS}CancelOperation", operation_pb2.CancelOperationRequest(name=name))


async def test_a_rotation_shows_its_steps_and_ends(network_on_each: NetworkSite) -> None:
    network = network_on_each
    await network.join(SITE)
    begun = await rotate(network)
    assert (begun.kind, begun.target) == ("RotateCertificates", f"sites/{SITE}")
    assert begun.creator and begun.HasField("create_time")
    seen = await watch(network, begun.name)
    assert seen[-1].state == SUCCEEDED and seen[-1].HasField("end_time")
    assert [step.state for step in seen[-1].steps] == [SUCCEEDED, SUCCEEDED]
    got = await network.call(f"{OPERATIONS}GetOperation", operation_pb2.GetOperationRequest(name=begun.name))
    assert got.operation == seen[-1]
    assert await watch(network, begun.name) == [seen[-1]], "who watches what has ended is told at once"


async def test_a_site_is_rotated_once_at_a_time(network_on_each: NetworkSite) -> None:
    network = network_on_each
    network.rotator.go.clear()
    await network.join(SITE)
    results = await asyncio.gather(*(rotate(network) for _ in range(5)), return_exceptions=True)
    begun = [one for one in results if isinstance(one, operation_pb2.Operation)]
    assert len(begun) == 1
    network.rotator.go.set()
    await watch(network, begun[0].name)
    await watch(network, (await rotate(network)).name)


async def test_only_members_are_rotated(network: NetworkSite) -> None:
    await network.join(SITE, state="INVITED")
    assert await reason_of(rotate(network)) == "STATE_CONFLICT"
    request = network_pb2.RotateCertificatesRequest(name="sites/public")
    assert await reason_of(network.call(f"{NETWORK}RotateCertificates", request)) == "INVALID_FIELD"


async def test_one_that_fails_says_why(network: NetworkSite) -> None:
    network.rotator.problem = SiteUnreachable(SITE)
    await network.join(SITE)
    ended = (await watch(network, (await rotate(network)).name))[-1]
    assert ended.state == FAILED and ended.error.reason == "SITE_UNREACHABLE"
    assert SITE in ended.error.message
    assert ended.steps[0].state == FAILED


async def test_a_defect_is_told_without_its_words(network: NetworkSite) -> None:
    network.rotator.problem = ZeroDivisionError("secret text of a defect")
    await network.join(SITE)
    ended = (await watch(network, (await rotate(network)).name))[-1]
    assert (ended.state, ended.error.reason) == (FAILED, "INTERNAL")
    assert "secret" not in ended.error.message


async def test_one_that_is_cancelled_ends_at_its_next_safe_point(network_on_each: NetworkSite) -> None:
    network = network_on_each
    network.rotator.go.clear()
    await network.join(SITE)
    begun = await rotate(network)
    seen = await watch(network, begun.name, until=RUNNING)
    response = await cancel(network, begun.name)
    assert response.operation.cancel_requested and response.operation.state == seen[-1].state
    network.rotator.go.set()
    ended = (await watch(network, begun.name))[-1]
    assert ended.state == CANCELLED
    assert [step.state for step in ended.steps][1] == operation_pb2.Operation.STATE_PENDING
    assert (await cancel(network, begun.name)).operation == ended, "it stays as it is"


async def test_what_does_not_exist_is_not_found(network: NetworkSite) -> None:
    name = f"operations/{'0' * 32}"
    assert await reason_of(cancel(network, name)) == "RESOURCE_NOT_FOUND"
    request = operation_pb2.GetOperationRequest(name=name)
    assert await reason_of(network.call(f"{OPERATIONS}GetOperation", request)) == "RESOURCE_NOT_FOUND"
    call = network.call(f"{OPERATIONS}WatchOperation", operation_pb2.WatchOperationRequest(name=name))
    assert await reason_of(call.read()) == "RESOURCE_NOT_FOUND"
    request = operation_pb2.GetOperationRequest(name="operations/../x")
    assert await reason_of(network.call(f"{OPERATIONS}GetOperation", request)) == "INVALID_FIELD"


async def test_operations_come_in_pages_the_newest_first(network_on_each: NetworkSite) -> None:
    network = network_on_each
    await network.join(SITE)
    names = []
    for _ in range(5):
        begun = await rotate(network)
        await watch(network, begun.name)
        names.append(begun.name)
    listed: list[str] = []
    token = ""
    while True:
        request = operation_pb2.ListOperationsRequest(page_size=2, page_token=token, target=f"sites/{SITE}")
        page = await network.call(f"{OPERATIONS}ListOperations", request)
        listed += [operation.name for operation in page.operations]
        token = page.next_page_token
        if not token:
            break
    assert listed == names[::-1]
    other = operation_pb2.ListOperationsRequest(target="sites/other")
    assert not (await network.call(f"{OPERATIONS}ListOperations", other)).operations
    stolen = operation_pb2.ListOperationsRequest(page_token="WyJ4Il0")
    assert await reason_of(network.call(f"{OPERATIONS}ListOperations", stolen)) == "INVALID_FIELD"


async def test_one_goes_on_after_a_restart(network: NetworkSite) -> None:
    network.rotator.go.clear()
    await network.join(SITE)
    begun = await rotate(network)
    await watch(network, begun.name, until=RUNNING)
    await network.stop()
    assert network.rotator.runs == 1
    network.rotator.go.set()
    await network.start()
    ended = (await watch(network, begun.name))[-1]
    assert ended.state == SUCCEEDED
    assert network.rotator.runs == 2


async def test_one_whose_process_was_killed_is_taken_over_when_its_lease_lapses(network: NetworkSite) -> None:
    network.rotator.go.clear()
    await network.join(SITE)
    begun = await rotate(network)
    await watch(network, begun.name, until=RUNNING)
    await network.operations.stop()
    dead = {"runner": "a process that was killed", "lease_time": utc_now(), "state": "RUNNING"}
    async with network.database.transaction(PLATFORM) as session:
        await session.execute(update(TABLE).values(dead))
    network.rotator.go.set()
    await network.stop()
    await network.start()
    ended = (await watch(network, begun.name))[-1]
    assert ended.state == SUCCEEDED


async def test_watchers_are_told_when_the_service_shuts_down(network: NetworkSite) -> None:
    network.rotator.go.clear()
    await network.join(SITE)
    begun = await rotate(network)
    call = network.call(f"{OPERATIONS}WatchOperation", operation_pb2.WatchOperationRequest(name=begun.name))
    await call.read()
    stopping = asyncio.ensure_future(network.server.stop(5.0))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        while await call.read() != grpc.aio.EOF:
            pass
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    await stopping
