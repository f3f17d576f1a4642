"""EdgeService on the wire: what the Envoys of this site have, and why."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from redoma.provisioner.v1 import edge_pb2, edge_pb2_grpc
from redoma_kit.errors import InvalidField, ResourceNotFound
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.edge.record import SnapshotRecord, SnapshotStore
from redoma_provisioner.edge.snapshot import TYPES, Snapshot
from redoma_provisioner.edge.subscription import Subscription
from redoma_provisioner.servicers.times import timestamp

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

COLLECTION = "proxies/"
VERSION = re.compile(r"[0-9a-f]{0,32}")
_INLINE = ("inline_string", "inline_bytes")


class EdgeServicer(edge_pb2_grpc.EdgeServiceServicer):
    """Shows what was made for the Envoys, and what came of it. Streams are those of this process."""

    def __init__(self, proxies: Iterable[Proxy], store: SnapshotStore) -> None:
        self._proxies = {proxy.name: proxy for proxy in proxies}
        self._store = store

    async def ListProxies(
        self, request: edge_pb2.ListProxiesRequest, context: "Context"
    ) -> edge_pb2.ListProxiesResponse:
        """Lists the Envoys and how current each is."""
        return edge_pb2.ListProxiesResponse(proxies=[_proxy(self._proxies[name]) for name in sorted(self._proxies)])

    async def GetSnapshot(
        self, request: edge_pb2.GetSnapshotRequest, context: "Context"
    ) -> edge_pb2.GetSnapshotResponse:
        """Gets what an Envoy is served, or was."""
        proxy = self._named(request.proxy)
        if not VERSION.fullmatch(request.version):
            raise InvalidField("version", "is none; ListSnapshots has those that are kept.")
        record, served = proxy.record, proxy.served
        if record is not None and served is not None and request.version in ("", record.version):
            return _snapshot_response(record, served.snapshot)
        kept = await self._store.find(proxy.name, request.version) if request.version else None
        if kept is None:
            raise ResourceNotFound(f"{request.proxy}/snapshots/{request.version or 'current'}")
        return _snapshot_response(*kept)

    async def ListSnapshots(
        self, request: edge_pb2.ListSnapshotsRequest, context: "Context"
    ) -> edge_pb2.ListSnapshotsResponse:
        """Lists the last snapshots of an Envoy, the newest first."""
        proxy = self._named(request.proxy)
        records = await self._store.list_records(proxy.name)
        return edge_pb2.ListSnapshotsResponse(snapshots=[_snapshot(record) for record in records])

    def _named(self, name: str) -> Proxy:
        if not name.startswith(COLLECTION):
            raise InvalidField("proxy", "must be proxies/ and a name, such as proxies/egress.")
        proxy = self._proxies.get(name.removeprefix(COLLECTION))
        if proxy is None:
            raise ResourceNotFound(name[:100])
        return proxy


def _proxy(proxy: Proxy) -> edge_pb2.Proxy:
    subscriptions = {} if proxy.session is None else proxy.session.subscriptions
    return edge_pb2.Proxy(
        name=f"{COLLECTION}{proxy.name}",
        connected=proxy.connected,
        types=[_type_status(subscriptions[type_url]) for type_url in TYPES if type_url in subscriptions],
        version="" if proxy.record is None else proxy.record.version,
        update_time=None if proxy.record is None else timestamp(proxy.record.create_time),
        withheld=proxy.withheld,
    )


def _type_status(subscription: Subscription) -> edge_pb2.ResourceTypeStatus:
    return edge_pb2.ResourceTypeStatus(
        type_url=subscription.type_url,
        sent_version=subscription.sent_version,
        accepted_version=subscription.accepted_version,
        refusal=subscription.refusal,
        answer_time=timestamp(subscription.answer_time),
        resources=sum(1 for held in subscription.held.values() if held.version),
    )


def _snapshot(record: SnapshotRecord) -> edge_pb2.Snapshot:
    return edge_pb2.Snapshot(
        version=record.version,
        create_time=timestamp(record.create_time),
        changes=record.changes,
        cause=record.cause,
    )


def _snapshot_response(record: SnapshotRecord, snapshot: Snapshot) -> edge_pb2.GetSnapshotResponse:
    return edge_pb2.GetSnapshotResponse(snapshot=_snapshot(record), resources=_resources(snapshot))


def _resources(snapshot: Snapshot) -> Iterator[edge_pb2.Resource]:
    for type_url in TYPES:
        for name, config in sorted(snapshot.of(type_url).items()):
            content = json.dumps(_without_keys(config), indent=1)
            yield edge_pb2.Resource(type_url=type_url, name=name, json=content)


def _without_keys(value: object) -> object:
    """Gives the value without private keys. Secrets name files, so there is none; this holds should there be one."""
    if isinstance(value, dict):
        return {
            key: {name: part for name, part in inner.items() if name not in _INLINE}
            if key == "private_key" and isinstance(inner, dict)
            else _without_keys(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_keys(inner) for inner in value]
    return value
