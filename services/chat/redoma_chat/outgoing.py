"""What every call to another service needs: a connection soon or not at all, and what it carries on."""

import asyncio

import grpc

from redoma_kit.identity import METADATA_KEY as IDENTITY_KEY
from redoma_kit.identity import current_identity
from redoma_kit.interceptors.request_id import METADATA_KEY as REQUEST_ID_KEY
from redoma_kit.interceptors.request_id import current_request_id
from redoma_kit.telemetry import Telemetry

READY_WAIT_S = 0.8


async def wait_until_ready(channel: grpc.aio.Channel, wait_s: float = READY_WAIT_S) -> bool:
    """Says whether the channel has a connection, waiting for one at most `wait_s` seconds."""
    try:
        async with asyncio.timeout(wait_s):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
    return True


def call_metadata(telemetry: Telemetry) -> tuple[tuple[str, str], ...]:
    """Gives what every call carries on: the signed identity, the request id, the trace."""
    return (
        (IDENTITY_KEY, current_identity().token),
        (REQUEST_ID_KEY, current_request_id()),
        *telemetry.propagation_headers().items(),
    )
