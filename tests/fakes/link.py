"""A TCP link between two services: a test can cut it without either end being told, and see what it carried."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Link:
    """Forwards bytes both ways until it is cut; then it keeps the connections open and forwards nothing."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._passes = True
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.carried = bytearray()

    def cut(self) -> None:
        """Forwards nothing from now on."""
        self._passes = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Link"]:
        """Listens on a port of its own."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._forward(source, sink))
            self._tasks.add(task)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                if self._passes:
                    self.carried += data
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.close()
