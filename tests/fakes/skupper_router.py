"""A stand-in for Skupper's routers, run as a program: one process for each site of a world of `skupper_cli.py`.

It is no router. It carries TCP connections from a Listener's port to the host:port of a Connector of the same key at a
site that is linked, as a router does, and follows the files of both: a listener's port is open while there is such a
connector, connections end when the link, a router or the connector's target goes, and where links come in it shows the
certificate of the access. What Skupper's routers say to one another, and their times, it knows nothing of.

With `--controller` it is the system controller of a site instead, which takes up what is written.
"""

import asyncio
import contextlib
import fcntl
import ssl
import sys
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.fakes.skupper_cli import Controller, Tree, World, mapping, sequence, text

POLL_S = 0.1
CHUNK = 64 << 10
PLATFORM = "podman"

Address = tuple[str, int]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Carried:
    """A connection that is carried to a site."""

    to: str
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]

    def abort(self) -> None:
        """Ends it at once."""
        for writer in self.writers:
            writer.transport.abort()


@dataclass(slots=True)
class Router:
    """The router of one site."""

    world: World
    tree: Tree
    servers: dict[Address, asyncio.Server] = field(default_factory=dict)
    carried: list[Carried] = field(default_factory=list)
    seen: object = None
    peers: Mapping[str, Tree] = field(default_factory=dict)

    async def run(self) -> None:
        """Follows the files until it is killed."""
        path = door_of(self.tree)
        path.unlink(missing_ok=True)
        await asyncio.start_unix_server(self._enter, path)
        while True:
            seen = _state(self.world)
            if seen != self.seen:
                await self._follow()
                self.seen = seen
            await asyncio.sleep(POLL_S)

    async def _follow(self) -> None:
        with self.world.control.held(fcntl.LOCK_SH):
            self.peers = {peer.key: peer for peer in self.world.peers(self.tree)}
            wanted = self._wanted()
        for one in [one for one in self.carried if one.to not in self.peers]:
            one.abort()
        for address in self.servers.keys() - wanted.keys():
            self.servers.pop(address).close()
        for address, (serve, context) in wanted.items():
            if address not in self.servers:
                with contextlib.suppress(OSError):
                    self.servers[address] = await asyncio.start_server(serve, *address, ssl=context)

    def _wanted(self) -> dict[Address, tuple[Serve, ssl.SSLContext | None]]:
        wanted: dict[Address, tuple[Serve, ssl.SSLContext | None]] = {("127.0.0.1", self._own_port()): (_greet, None)}
        for one in self.tree.runtime("RouterAccess"):
            spec = mapping(one, "spec")
            for role in sequence(spec.get("roles")):
                context = _context(self.tree, text(spec.get("issuer")))
                wanted[text(spec.get("bindHost")), int(text(role.get("port")))] = (_greet, context)
        for one in self.tree.runtime("Listener"):
            spec = mapping(one, "spec")
            if any(_target(peer, text(spec.get("routingKey"))) for peer in self.peers.values()):
                serve = partial(self._carry, text(spec.get("routingKey")))
                wanted[text(spec.get("host")), int(text(spec.get("port")))] = (serve, None)
        return wanted

    def _own_port(self) -> int:
        return 20_000 + zlib.crc32(self.tree.key.encode()) % 10_000

    async def _carry(self, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes a connection of a listener to the router of a site that has the connector."""
        peer = next((one for one in self.peers.values() if _target(one, key)), None)
        try:
            if peer is None:
                return
            there = await asyncio.open_unix_connection(door_of(peer))
            there[1].write(f"{key}\n".encode())
            await self._join(peer.key, (reader, writer), there)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes a connection that another router brings to the target of a connector."""
        key = (await reader.readline()).decode().strip()
        target = _target(self.tree, key)
        try:
            if target is not None:
                peer = next(iter(self.peers), "")
                await self._join(peer, (reader, writer), await asyncio.open_connection(*target))
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _join(self, to: str, here: Streams, there: Streams) -> None:
        carried = Carried(to, (here[1], there[1]))
        self.carried.append(carried)
        ways = [asyncio.create_task(_pump(here[0], there[1])), asyncio.create_task(_pump(there[0], here[1]))]
        try:
            await asyncio.wait(ways, return_when=asyncio.ALL_COMPLETED)
        finally:
            carried.abort()
            self.carried.remove(carried)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
    except (OSError, RuntimeError):
        writer.transport.abort()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Lets who dials see that somebody listens."""
    with contextlib.suppress(OSError):
        await reader.read(1)
    writer.transport.abort()


def door_of(tree: Tree) -> Path:
    """Where other routers bring connections to one."""
    return tree.control.world / f"{zlib.crc32(tree.key.encode()):x}.sock"


def _target(tree: Tree, key: str) -> Address | None:
    for one in tree.runtime("Connector") if tree.is_up() else ():
        spec = mapping(one, "spec")
        if text(spec.get("routingKey")) == key:
            return text(spec.get("host")), int(text(spec.get("port")))
    return None


def _context(tree: Tree, issuer: str) -> ssl.SSLContext:
    tree.certificate(issuer)
    files = tree.root / "runtime" / "issuers" / issuer
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "ca.crt", files / "tls.key")
    return context


def _state(world: World) -> object:
    """Gives what changes whenever anything of the world does."""
    files = [*world.root.glob("*/skupper/namespaces/*/runtime/resources/*"), world.root / "control.json"]
    with contextlib.suppress(FileNotFoundError):
        return (
            sorted((str(path), path.stat().st_mtime_ns) for path in files if path.exists()),
            [(tree.key, tree.router_pid(), tree.is_up()) for tree in world.trees()],
        )
    return object()


async def control(controller: Controller, tree: Tree) -> None:
    """Takes up what is written at a site until it is killed."""
    seen: object = None
    while True:
        now = None
        with contextlib.suppress(FileNotFoundError):
            now = [(path.name, path.stat().st_mtime_ns) for path in sorted(tree.root.glob("input/resources/*.yaml"))]
        if now and now != seen and any(one.get("kind") == "Site" for _, one in tree.input()):
            controller.take_up()
            seen = now
        await asyncio.sleep(POLL_S)


def main() -> None:
    """Runs the program: [--controller] WORLD HOME NAMESPACE."""
    root, home, namespace = sys.argv[-3:]
    world = World(Path(root))
    tree = Tree(Path(home), namespace, world.control)
    if "--controller" in sys.argv:
        asyncio.run(control(Controller(world, Path(home), PLATFORM, namespace), tree))
    else:
        asyncio.run(Router(world, tree).run())


if __name__ == "__main__":
    main()
