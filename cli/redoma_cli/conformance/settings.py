"""What distinguishes one run of the kit from another."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run, and what the deployment promises.

    Attributes:
        parallel: Checks at a time, of those that others' load does not falsify.
        check_timeout_s: The longest one check may take.
        quick: Leaves out what takes minutes.
        model: The model to ask, by its id; empty is the default one.
        ttft_factor: How much later a neighbour's first token may come under another's flood, in times of its idle one.
        ttft_floor_s: Idle first tokens that come sooner count as this, since a machine's own noise is of that size.
        flood_streams: Streams of the flood.
        revoke_s: How long after its answer a revocation may take to be in force.
        revoke_margin_s: What is allowed on top for the way of the answers, in seconds.
        settle_s: How long the books may take until the last call is in them.
        public_prefix_tokens: Tokens at the head of every prompt that are declared to be shared by all tenants.
        max_stream_s: The longest stream that the deployment promises; None leaves that test out.
        replicas: Model processes that answer. With several the journal of one does not hold all calls.
        answer_s: How long a short answer may take, its waiting included.
        freed_s: How long it may take until nothing is left of a reader who went away.
        keep: Leaves the throw-away tenants for a look at them.
    """

    parallel: int = 3
    check_timeout_s: float = 240.0
    quick: bool = False
    model: str = ""
    ttft_factor: float = 4.0
    ttft_floor_s: float = 0.05
    flood_streams: int = 16
    revoke_s: float = 1.0
    revoke_margin_s: float = 0.5
    settle_s: float = 30.0
    public_prefix_tokens: int = 0
    max_stream_s: float | None = None
    replicas: int = 1
    answer_s: float = 120.0
    freed_s: float = 5.0
    keep: bool = False
