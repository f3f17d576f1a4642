"""Which loopback ports the processes of a site listen on, the same at each start as long as they are free."""

import json
import random
import socket
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from redoma_cli.errors import CliError
from redoma_cli.local.home import write_private

LOOPBACK = "127.0.0.1"
# Below the range the kernel takes outgoing ports from: a client that dials a closed port of that range can, by chance,
# be given the same port for its own end and be connected to itself.
LOWEST_PORT = 10_000
EPHEMERAL_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
ATTEMPTS = 500


def port_is_free(port: int) -> bool:
    """Whether a server can listen on `port` of the loopback interface now."""
    return bind_error(port) is None


def bind_error(port: int, host: str = LOOPBACK) -> OSError | None:
    """Says why a server can't listen on `port` of an interface now, loopback's by default; None when it can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def next_free_port(port: int) -> int:
    """Gives the first free port above `port`; 0 if there is none."""
    return next((other for other in range(port + 1, 65_536) if port_is_free(other)), 0)


def highest_port() -> int:
    """The highest port that the kernel never gives to an outgoing connection by itself."""
    try:
        lowest_ephemeral = int(EPHEMERAL_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest_ephemeral = 32_768
    return lowest_ephemeral - 1 if lowest_ephemeral > LOWEST_PORT + 1_000 else 65_535


def choose_ports(
    names: Sequence[str],
    kept_in: Path,
    in_use_by_site: Callable[[str], bool],
    is_free: Callable[[int], bool] = port_is_free,
    rng: random.Random | None = None,
    reserved: Collection[int] = (),
) -> dict[str, int]:
    """Gives a port to each name: the one kept in the file while it is free or the site's own process holds it.

    None of `reserved` is given.

    Raises:
        CliError: No free port was found.
    """
    try:
        entries = json.loads(kept_in.read_text()).items()
        kept: dict[str, int] = {name: int(port) for name, port in entries if 0 < int(port) <= 65_535}
    except (OSError, ValueError, AttributeError, TypeError):
        kept = {}
    rng = rng or random.SystemRandom()
    ports: dict[str, int] = {}
    for name in names:
        port = kept.get(name)
        if port is None or port in reserved or not (in_use_by_site(name) or is_free(port)):
            port = _find_free(is_free, {*ports.values(), *kept.values(), *reserved}, rng)
        ports[name] = port
    if ports != kept:
        write_private(kept_in, (json.dumps(ports, indent=2) + "\n").encode())
    return ports


def _find_free(is_free: Callable[[int], bool], taken: set[int], rng: random.Random) -> int:
    for _ in range(ATTEMPTS):
        port = rng.randint(LOWEST_PORT, highest_port())
        if port not in taken and is_free(port):
            return port
    raise CliError(
        f"No free port was found on {LOOPBACK}.", "End programs that listen on many ports; `ss -ltn` shows them."
    )
