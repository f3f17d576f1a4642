"""HTTP/1.1 without manners: it sends exactly the bytes it is told, which no other client does with odd paths."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

MAX_LINE_BYTES = 1 << 20
Headers = Sequence[tuple[str, str]]


class NoAnswer(Exception):
    """The other side closed the connection or said what is not HTTP."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole response.

    Attributes:
        status: Its status code.
        headers: Its headers and trailers, names in lower case.
        body: Its body.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """Gives the value of a header; empty if there is none."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def everything(self) -> bytes:
        """Headers and body, to look for what must not be there."""
        return "\n".join(f"{key}: {value}" for key, value in self.headers).encode() + b"\n" + self.body


class HttpStream:
    """A response whose body is still to come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: list[tuple[str, str]] = []

    async def begin(self) -> None:
        """Reads the status and the headers.

        Raises:
            NoAnswer: There are none.
        """
        line = await self._line()
        parts = line.split(" ", 2)
        if not line.startswith("HTTP/1") or len(parts) < 2 or not parts[1].isdigit():
            raise NoAnswer("The connection was closed without an answer.")
        self.status = int(parts[1])
        await self._read_headers()
        if self.status == 100:
            self.headers.clear()
            await self.begin()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Gives the body as it comes; afterwards `headers` has the trailers too.

        Raises:
            NoAnswer: It was cut.
        """
        named = dict(self.headers)
        if self.status in (204, 304):
            return
        if "chunked" in named.get("transfer-encoding", ""):
            async for piece in self._chunks():
                yield piece
        elif (length := named.get("content-length")) is not None:
            yield await self._exactly(int(length))
        else:
            while piece := await self._reader.read(65_536):
                yield piece

    def drop(self) -> None:
        """Goes away as a client does that loses its network: no goodbye."""
        self._writer.transport.abort()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while True:
            line = await self._line()
            try:
                size = int(line.partition(";")[0], 16)
            except ValueError:
                raise NoAnswer("The body was cut.") from None
            if size == 0:
                await self._read_headers()
                return
            yield await self._exactly(size)
            await self._exactly(2)

    async def _read_headers(self) -> None:
        while line := await self._line():
            name, _, value = line.partition(":")
            self.headers.append((name.strip().lower(), value.strip()))

    async def _line(self) -> str:
        try:
            line = await self._reader.readline()
        except (OSError, ValueError) as error:
            raise NoAnswer("The connection was reset.") from error
        return line.decode("latin-1").rstrip("\r\n")

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise NoAnswer("The body was cut.") from error


@dataclass(frozen=True, slots=True)
class HttpClient:
    """Requests to one host, each on a connection of its own.

    Attributes:
        host: Where to connect to.
        port: And on which port.
        tls: For https; None is plain HTTP.
        authority: What the header `host` says.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    authority: str

    @asynccontextmanager
    async def open(self, verb: str, target: str, headers: Headers = (), body: bytes = b"") -> AsyncIterator[HttpStream]:
        """Sends a request and gives the response once its headers are there.

        Raises:
            NoAnswer: There is none.
            OSError: Nobody listens there.
        """
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls, limit=MAX_LINE_BYTES)
        try:
            stream = HttpStream(reader, writer)
            # Not drained: whoever refuses a large body answers before he has read all of it.
            writer.write(self._head(verb, target, headers, len(body)) + body)
            await stream.begin()
            yield stream
        finally:
            writer.transport.abort()

    async def send(
        self, verb: str, target: str, headers: Headers = (), body: bytes = b"", timeout_s: float = 30.0
    ) -> HttpAnswer:
        """Sends a request and reads the whole response.

        Raises:
            NoAnswer: There is none, or it was cut.
            OSError: Nobody listens there.
            TimeoutError: It took longer than `timeout_s`.
        """
        async with asyncio.timeout(timeout_s), self.open(verb, target, headers, body) as stream:
            content = b"".join([piece async for piece in stream.pieces()])
            return HttpAnswer(stream.status, tuple(stream.headers), content)

    def _head(self, verb: str, target: str, headers: Headers, length: int) -> bytes:
        sent = {"host": self.authority, "connection": "close"}
        if length or verb in ("POST", "PUT", "PATCH"):
            sent["content-length"] = str(length)
        lines = [f"{verb} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in _merged(sent, headers))]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _merged(own: Mapping[str, str], given: Headers) -> list[tuple[str, str]]:
    names = {name.lower() for name, _ in given}
    return [(name, value) for name, value in own.items() if name not in names] + list(given)
