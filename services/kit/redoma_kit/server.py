"""The one way a Redoma service serves: mutual TLS, health that starts NOT_SERVING, interceptors, drain on SIGTERM."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Collection, Sequence

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from redoma_kit.errors import ErrorTable
from redoma_kit.identity import IdentityVerifier
from redoma_kit.interceptors.access_log import AccessLog
from redoma_kit.interceptors.authorization import Authorization
from redoma_kit.interceptors.deadline import Deadline
from redoma_kit.interceptors.drain import Drain
from redoma_kit.interceptors.errors import Errors, ExtraTrailers, no_extra_trailers
from redoma_kit.interceptors.pipeline import Interceptor, Pipeline
from redoma_kit.interceptors.request_id import request_id
from redoma_kit.interceptors.telemetry import Measurements, Tracing
from redoma_kit.policy import HEALTH_POLICY, REFLECTION_POLICY, Policy
from redoma_kit.server_identity import ServerIdentity
from redoma_kit.settings import ServiceSettings
from redoma_kit.telemetry import Telemetry
from redoma_kit.unix_socket import SocketUnusable, claimed, socket_path

END_GRACE_S = 2.0
MAX_CONCURRENT_STREAMS = 4_096
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class AddressInUse(Exception):
    """The address to listen on can't be bound."""

    def __init__(
        self, address: str, why: str = "another program holds the port, or the address is not this machine's."
    ) -> None:
        super().__init__(f"Can't listen on {address}: {why}")


class GrpcServer:
    """A grpc.aio server with everything Redoma's services share.

    `add` servicers, `start`, say `set_serving` when ready, then `serve_until_stopped`. `policy` names every method that
    may be called; health, and reflection when it is on, are added here. `witnesses` run around authorization: they see
    how each call ends, refused ones too, before the answer is sent. `admitted` run around the handlers of calls that
    were let in. Of `quiet` methods only failures are logged.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        policy: Policy,
        errors: ErrorTable,
        verifier: IdentityVerifier,
        telemetry: Telemetry,
        log: structlog.stdlib.BoundLogger,
        extra_trailers: ExtraTrailers = no_extra_trailers,
        witnesses: Sequence[Interceptor] = (),
        admitted: Sequence[Interceptor] = (),
        quiet: Collection[str] = (),
    ) -> None:
        full_policy = {**policy, **HEALTH_POLICY, **(REFLECTION_POLICY if settings.reflection else {})}
        self.drain = Drain()
        interceptors: list[Interceptor] = [
            request_id,
            Measurements(telemetry),
            *([Tracing(telemetry)] if telemetry.traces else []),
            AccessLog(log, quiet),
            Errors(errors, log, extra_trailers),
            self.drain,
            *witnesses,
            Authorization(full_policy, verifier, settings.forwarders),
            Deadline(full_policy, settings.max_stream_s),
            *admitted,
        ]
        self._settings = settings
        self._telemetry = telemetry
        self._log = log
        self._stop_requested = asyncio.Event()
        self._names: list[str] = []
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=[Pipeline(interceptors)], options=_options(settings))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = 0

    def add(self, register: Callable[[grpc.aio.Server], None], name: str) -> None:
        """Adds a servicer by `register`; `name` is its full service name, for health and reflection."""
        register(self._server)
        self._names.append(name)

    async def start(self) -> None:
        """Binds and starts to answer; health is NOT_SERVING.

        Raises:
            AddressInUse: The address can't be bound.
            OSError: A file of the service's identity can't be used.
        """
        for name in ("", *self._names):
            await self._health.set(name, NOT_SERVING)
        if self._settings.reflection:
            reflection.enable_server_reflection((*self._names, reflection.SERVICE_NAME), self._server)
        self.port = self._bind(ServerIdentity(self._settings.tls, self._log).credentials())
        self._telemetry.start()
        await self._server.start()
        self._log.info("listening", address=self._settings.listen, port=self.port)

    def _bind(self, credentials: grpc.ServerCredentials) -> int:
        """Gives the port; 0 for a Unix socket."""
        address = self._settings.listen
        path = socket_path(address)
        try:
            if path is None:
                return self._server.add_secure_port(address, credentials)
            with claimed(path):
                self._server.add_secure_port(address, credentials)
            return 0
        except SocketUnusable as error:
            raise AddressInUse(address, str(error)) from None
        except RuntimeError:
            if path is None:
                raise AddressInUse(address) from None
            raise AddressInUse(address, "the folder is missing, or may not be written to.") from None

    async def set_serving(self, serving: bool, names: Sequence[str] | None = None) -> None:
        """Says by health whether the service (all of it, or `names`) can be used."""
        status = SERVING if serving else NOT_SERVING
        for name in ("", *self._names) if names is None else names:
            await self._health.set(name, status)

    def request_stop(self) -> None:
        """Makes `serve_until_stopped` drain and return; said again, it waits for running calls no longer."""
        if self._stop_requested.is_set():
            self.drain.hurry()
        self._stop_requested.set()

    async def serve_until_stopped(self, *cleanups: Callable[[], Awaitable[None]]) -> None:
        """Serves until SIGTERM, SIGINT or request_stop; then drains, stops, and runs `cleanups` in order.

        A second signal ends what still runs.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.request_stop)
        try:
            await self._stop_requested.wait()
            await self.stop(self._settings.grace_s)
        finally:
            for cleanup in cleanups:
                await cleanup()

    async def stop(self, grace_s: float) -> None:
        """Turns health NOT_SERVING, refuses new calls, gives running ones `grace_s` seconds, then ends them.

        What is ended so gets the status of a service that shuts down.
        """
        await self._health.enter_graceful_shutdown()
        self._log.info("draining", running=self.drain.running, grace_s=grace_s)
        left = await self.drain.drain(grace_s)
        if left:
            self._log.warning("ending what is left", running=left)
            await self.drain.end(END_GRACE_S)
        # Statuses that are on their way still go out.
        await self._server.stop(END_GRACE_S if left else 0)
        self._telemetry.stop()
        self._log.info("stopped")


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        # What ends the connection of a client that answers no ping; the keepalive timeout alone never fires.
        ("grpc.http2.ping_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
        ("grpc.http2.max_ping_strikes", 0),
    ]
