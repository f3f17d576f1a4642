"""How an Envoy of Redoma's is started: what those who print its bootstrap and those who start it must agree on."""

import math

# What runs on a replaced listener may finish: its own limit ends it before, with a status that says why.
DRAIN_MARGIN_S = 60
# The egress cuts at once what runs to a site that was revoked.
CUT_AT_ONCE = ("--drain-time-s", "1", "--drain-strategy", "immediate")


def admin_socket(proxy: str) -> str:
    """Names the Unix socket of an Envoy's admin interface, in its working directory."""
    return f"{proxy}-admin.sock"


def secrets_file(proxy: str) -> str:
    """Names the file in an Envoy's working directory that says where its identity is; Envoy reads it again."""
    return f"{proxy}-secrets.json"


def drain_options(proxy: str, max_stream_s: float) -> tuple[str, ...]:
    """Gives the part of an Envoy's command line that says how long calls go on that are to end.

    Args:
        proxy: `edge`, `egress` or `gateway`.
        max_stream_s: The longest a call may last, in seconds.
    """
    if proxy == "egress":
        return CUT_AT_ONCE
    return ("--drain-time-s", str(math.ceil(max_stream_s) + DRAIN_MARGIN_S))
