"""Puts together what reaches the replicas of models: who they are, their journals, and their caches."""

import grpc
import structlog

from redoma_tenant.identity import IdentityMinter
from redoma_tenant.journal_channel import GrpcJournals
from redoma_tenant.privacy.places import ModelPlace
from redoma_tenant.purge_channel import GrpcPurgeChannel
from redoma_tenant.replica_channel import GrpcReplicaFeed
from redoma_tenant.replicas import ReplicaDirectory
from redoma_tenant.servicers.exposed import MODEL_AUDIENCE

# As who it asks for journals, and as who it purges.
METER, ERASER = "platform/meter", "platform/eraser"


class ModelParts:
    """What the server starts and stops.

    Attributes:
        replicas: Which there are.
        journals: What they know of calls.
        place: Their caches, to erase from.
    """

    def __init__(
        self,
        egress: grpc.aio.Channel,
        provisioner: grpc.aio.Channel,
        minter: IdentityMinter,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.replicas = ReplicaDirectory(GrpcReplicaFeed(provisioner), log)
        self.journals = GrpcJournals(egress, minter.minted_as(METER, MODEL_AUDIENCE), self.replicas)
        purges = GrpcPurgeChannel(egress, minter.minted_as(ERASER, MODEL_AUDIENCE))
        self.place = ModelPlace(self.replicas, purges)
