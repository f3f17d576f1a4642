"""Names by which resources of the Envoys find each other, and the services behind them."""

MODELS = "models"
# What the health of a model is asked as.
MODEL_HEALTH_SERVICE = "redoma.model.v1.ModelService"
# Set on an Envoy's own answer to a call of which nothing reached a service, so that it may be tried elsewhere.
NOT_SENT_HEADER = "redoma-not-sent"
NODE_HEADER = "x-node-id"


def models_of(tenant: str) -> str:
    """Names the cluster of the models that serve one tenant alone."""
    return f"{MODELS}/{tenant}"


def replica_cluster(routing_key: str) -> str:
    """Names the cluster of one service, and its endpoints."""
    return f"replica/{routing_key}"


def replica_listener(routing_key: str) -> str:
    """Names the egress's listener that leads to one service through its site's tunnels."""
    return f"replica-{routing_key}"


def replica_pipe(routing_key: str) -> str:
    """Names that listener's Unix socket, in the egress's working directory."""
    return f"{replica_listener(routing_key)}.sock"


def tunnel_cluster(site: str) -> str:
    """Names the cluster of a site's tunnels."""
    return f"tunnel/{site}"
