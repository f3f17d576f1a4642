"""The Envoys of the sites as processes: each starts from a static bootstrap and gets all else from its provisioner."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from redoma_cli.local.plan import ProbeSpec, ProcessSpec, fingerprint
from redoma_cli.local.service import inherited_environment

MOST_WORKERS = 2
CORES_PER_WORKER = 2
# The edge and the gateway let what runs on a replaced listener finish.
DRAIN_MARGIN_S = 60
# The egress cuts at once what runs to a site that was revoked.
CUT_AT_ONCE = ("--drain-time-s", "1", "--drain-strategy", "immediate")

Bootstraps = Callable[[str], Path]


def admin_socket(proxy: str) -> str:
    """Gives the name of the Unix socket of an Envoy's admin interface, in its working directory."""
    return f"{proxy}-admin.sock"


def envoy_workers(cores: int) -> int:
    """Says how many threads an Envoy serves with; with few cores one, which wakes once for what two would wake for."""
    return max(1, min(MOST_WORKERS, cores // CORES_PER_WORKER))


def envoy_spec(
    proxy: str,
    program: Path,
    bootstrap: Path,
    max_stream_s: float,
    environ: Mapping[str, str],
    directory: Path,
    files: Sequence[Path] = (),
) -> ProcessSpec:
    """Plans an Envoy.

    Args:
        proxy: `edge`, `egress` or `gateway`.
        program: The Envoy program.
        bootstrap: Its bootstrap.
        max_stream_s: The longest a call may last, in seconds.
        environ: The person's environment.
        directory: Its working directory.
        files: Files whose change needs a new start.

    Raises:
        OSError: A file can't be read.
    """
    drain = ("--drain-time-s", str(math.ceil(max_stream_s) + DRAIN_MARGIN_S))
    argv = (
        *(str(program), "-c", str(bootstrap), "--concurrency", str(envoy_workers(os.cpu_count() or 1))),
        *("--disable-hot-restart", *(CUT_AT_ONCE if proxy == "egress" else drain), "--log-level", "warning"),
    )
    return ProcessSpec(
        name=proxy,
        argv=argv,
        env=inherited_environment(environ),
        probe=ProbeSpec("envoy", admin_socket(proxy)),
        fingerprint=fingerprint(argv, {}, [bootstrap, *files]),
        directory=str(directory),
    )
