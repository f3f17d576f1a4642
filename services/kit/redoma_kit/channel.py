"""Client channels to other Redoma services: mutual TLS, quick to notice a dead peer and quick to come back."""

import asyncio

import grpc

from redoma_kit.settings import TlsSettings, UpstreamSettings
from redoma_kit.tls import channel_credentials

KEEPALIVE_INTERVAL_MS = 1_000
KEEPALIVE_TIMEOUT_MS = 1_500


def open_channel(upstream: UpstreamSettings, tls: TlsSettings, max_message_bytes: int) -> grpc.aio.Channel:
    """Opens a channel that pings each second, so that a frozen peer or a cut link ends its calls within 3 s, and that
    tries to connect again at least each second."""
    options = [
        ("grpc.ssl_target_name_override", upstream.server_name),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # What ends the connection of a peer that answers no ping; the keepalive timeout alone never fires.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.enable_retries", 0),
        # Token streams are small; estimating their bandwidth costs a ping for every burst.
        ("grpc.http2.bdp_probe", 0),
        # Each channel has connections of its own, so that one client's dead connection is not another's.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.aio.secure_channel(upstream.target, channel_credentials(tls), options=options)


def raise_if_cancelled_here() -> None:
    """Raises CancelledError if the task is being cancelled.

    grpc raises it also where the peer ended the call with the status CANCELLED, or the channel was closed.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise asyncio.CancelledError
