"""An operator may say which replica is meant, of the engine's methods alone."""

import grpc
import pytest

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc
from redoma.model.v1 import engine_pb2, engine_pb2_grpc
from tests.unit.cli.edge_site import GENEROUS_S, Edge, authority, edge, home

__all__ = ["authority", "edge", "home"]

GOOD = ("authorization", "Bearer good")
FORGED = (("redoma-tenant", "globex"), ("redoma-affinity", "f"), ("x-node-id", "hospital-a"))


@pytest.mark.parametrize("replica", ["hospital-a.model-0", "x" * 600], ids=["one", "too long"])
def test_replica_is_named_to_the_engine_and_to_nobody_else(edge: Edge, replica: str) -> None:
    metadata = (GOOD, ("redoma-replica", replica), *FORGED)
    with grpc.insecure_channel(edge.address) as channel:
        engine_pb2_grpc.EngineServiceStub(channel).GetEngineState(
            engine_pb2.GetEngineStateRequest(), metadata=metadata, timeout=GENEROUS_S, wait_for_ready=True
        )
        conversation_pb2_grpc.ConversationServiceStub(channel).ListConversations(
            conversation_pb2.ListConversationsRequest(), metadata=metadata, timeout=GENEROUS_S
        )
    engine, conversations = edge.services.seen
    assert engine.get("redoma-replica") == (replica if len(replica) < 600 else None)
    assert "redoma-replica" not in conversations
    for seen in (engine, conversations):
        assert not {name for name, _ in FORGED} & seen.keys()
