"""The metadata by which the egress chooses where a call goes. The edge lets no client say any of it."""

# The routing key of one service, which alone gets the call.
REPLICA_KEY = "redoma-replica"
# What is hashed to choose among replicas.
AFFINITY_KEY = "redoma-affinity"
# The id of the tenant, of one that has replicas of its own.
TENANT_KEY = "redoma-tenant"
