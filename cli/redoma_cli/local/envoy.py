"""The Envoys of the sites as processes: each starts from a static bootstrap and gets all else from its provisioner."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from redoma_cli.local.plan import ProbeSpec, ProcessSpec, fingerprint
from redoma_cli.local.service import inherited_environment
from redoma_kit.envoy_process import admin_socket, drain_options

MOST_WORKERS = 2
CORES_PER_WORKER = 2

Bootstraps = Callable[[str], Path]


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
    argv = (
        *(str(program), "-c", str(bootstrap), "--concurrency", str(envoy_workers(os.cpu_count() or 1))),
        *("--disable-hot-restart", *drain_options(proxy, max_stream_s), "--log-level", "warning"),
    )
    return ProcessSpec(
        name=proxy,
        argv=argv,
        env=inherited_environment(environ),
        probe=ProbeSpec("envoy", admin_socket(proxy)),
        fingerprint=fingerprint(argv, {}, [bootstrap, *files]),
        directory=str(directory),
    )
