"""Which port each listener has: the same across restarts, and never one that another holds."""

import json
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

from redoma_provisioner.network.driver import DriverRefused

LAST_PORT = 65_535
ROUTER_LISTENER = "skupper-local-normal"


class Ports:
    """Gives out ports from one up, past those that anybody is known to hold."""

    def __init__(self, first: int, held: Iterable[int], is_free: Callable[[int], bool]) -> None:
        """`held`: ports that are never given; `is_free`: whether a port can be had on this machine now."""
        self._next = first
        self._held = set(held)
        self._is_free = is_free

    def take(self) -> int:
        """Gives the lowest port that nobody holds, once.

        Raises:
            DriverRefused: There is none left.
        """
        while self._next <= LAST_PORT:
            port, self._next = self._next, self._next + 1
            if port not in self._held and self._is_free(port):
                return port
        raise DriverRefused("No port is left for another listener. Set driver.first_port to a lower one.")


def ports_in(manifest: Mapping[str, object]) -> set[int]:
    """Gives the ports that a resource has the router listen on."""
    spec = manifest.get("spec")
    if not isinstance(spec, Mapping):
        return set()
    if manifest.get("kind") in ("Listener", "MultiKeyListener"):
        return _numbers([spec.get("port")])
    if manifest.get("kind") == "RouterAccess":
        roles = spec.get("roles")
        return _numbers(
            [one.get("port") for one in roles if isinstance(one, Mapping)] if isinstance(roles, list) else []
        )
    return set()


def can_be_bound(host: str, port: int) -> bool:
    """Tells whether a port can be listened on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def router_port(config: Path) -> int | None:
    """Gives the port that the router of a site always listens on, on the loopback; None before the site's start."""
    try:
        entries = json.loads(config.read_bytes())
    except (OSError, ValueError):
        return None
    for entry in entries if isinstance(entries, list) else ():
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], dict)):
            continue
        if entry[0] == "listener" and entry[1].get("name") == ROUTER_LISTENER:
            return next(iter(_numbers([entry[1].get("port")])), None)
    return None


def _numbers(values: list[object]) -> set[int]:
    return {int(str(value)) for value in values if str(value).isdigit()}
