"""The ways from a caller to a model that differ in what is between the two, with nothing else different."""

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc

from redoma_cli.local.home import Home
from redoma_cli.local.pki import DevelopmentAuthority, server_name
from redoma_cli.local.plan import GATEWAY
from redoma_cli.local.private_site import DEFAULT_SITE, MODEL_CONNECTOR
from redoma_kit.channel import open_channel
from redoma_kit.policy import spiffe_id
from redoma_kit.settings import UpstreamSettings
from redoma_provisioner.edge.state import EgressState, Endpoint
from tests.bench.bare_egress import PEER, bare_egress
from tests.bench.identities import tls_of

DIRECT, EGRESS, VAN, ALL = "direct", "egress", "egress + VAN", "edge + chat + egress + VAN"
WAYS = (DIRECT, EGRESS, VAN, ALL)
MAX_MESSAGE_BYTES = 8 << 20
# The model believes the gateway of its site of who calls, as ever, and here also an egress that dials it.
FORWARDERS = json.dumps([spiffe_id(DEFAULT_SITE, GATEWAY), PEER])


@dataclass(frozen=True, slots=True)
class ModelWays:
    """The ways of chat to a model: DIRECT, by an EGRESS that dials it, and by the site's own VAN.

    Attributes:
        channels: By way. All end at the model's one socket.
        egress: The process of the egress that dials it.
    """

    channels: Mapping[str, grpc.aio.Channel]
    egress: int


async def open_ways(home: Home, stack: AsyncExitStack) -> ModelWays:
    """Opens the ways to a site's model, whose `forwarders` have to be FORWARDERS."""
    authority = DevelopmentAuthority(home.pki)
    socket = f"unix:{home.private.run / 'model.sock'}"
    replica = Endpoint(f"{DEFAULT_SITE}.{MODEL_CONNECTOR}", DEFAULT_SITE, "model", address=socket)
    egress = await stack.enter_async_context(bare_egress(authority, EgressState(replicas=(replica,))))
    upstreams = {
        DIRECT: UpstreamSettings(target=socket, server_name=server_name("model", DEFAULT_SITE)),
        EGRESS: egress.services,
        VAN: UpstreamSettings(target=f"127.0.0.1:{port_of(home.root, 'egress')}", server_name=server_name("egress")),
    }
    channels = {}
    for way, upstream in upstreams.items():
        channels[way] = open_channel(upstream, tls_of(authority, "chat"), MAX_MESSAGE_BYTES)
        await stack.enter_async_context(channels[way])
    assert egress.envoy.process is not None
    return ModelWays(channels, egress.envoy.process.pid)


def port_of(home: Path, process: str) -> int:
    """Gives the loopback port of a process of a public site."""
    return int(json.loads((Home(home).config / "ports.json").read_text())[process])
