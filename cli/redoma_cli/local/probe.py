"""Asks a process whether it lives and whether it is ready. A process that answers `not yet` lives."""

import enum
import http.client
import os
import socket
from pathlib import Path
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma_cli.local.pki import IdentityFiles
from redoma_cli.local.plan import ProbeSpec

TIMEOUT_S = 2.0


class Answer(enum.Enum):
    """What a process said."""

    SILENT = "silent"
    NOT_READY = "not ready"
    READY = "ready"


class Probe(Protocol):
    """Asks one process."""

    def ask(self) -> Answer:
        """Asks once; takes at most TIMEOUT_S or a little more."""

    def close(self) -> None:
        """Lets go of connections."""


class GrpcProbe:
    """Asks the gRPC health service over mutual TLS, as the supervisor."""

    def __init__(self, address: str, server_name: str, identity: IdentityFiles) -> None:
        credentials = grpc.ssl_channel_credentials(
            identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
        )
        options = [
            ("grpc.ssl_target_name_override", server_name),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = grpc.secure_channel(address, credentials, options=options)
        self._stub = health_pb2_grpc.HealthStub(self._channel)

    def ask(self) -> Answer:
        """Gives READY when the service as a whole is SERVING, NOT_READY for any other answer."""
        try:
            response = self._stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
            # Any other status was written by the process itself.
            lost = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return Answer.SILENT if lost else Answer.NOT_READY
        ready = response.status == health_pb2.HealthCheckResponse.SERVING
        return Answer.READY if ready else Answer.NOT_READY

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()


class EnvoyProbe:
    """Asks Envoy's admin interface, which lies on a Unix socket that only the owner can open."""

    def __init__(self, admin: "EnvoyAdmin") -> None:
        self._admin = admin

    def ask(self) -> Answer:
        """Gives READY once Envoy has loaded its configuration and listens."""
        try:
            status, _ = self._admin.request("GET", "/ready")
        except OSError:
            return Answer.SILENT
        return Answer.READY if status == http.client.OK else Answer.NOT_READY

    def close(self) -> None:
        """Does nothing: each request has its own connection."""


class EnvoyAdmin:
    """Envoy's admin interface on a Unix socket."""

    def __init__(self, socket_file: Path) -> None:
        self._socket_file = socket_file

    def request(self, method: str, path: str) -> tuple[int, str]:
        """Sends one request and gives the status and the body.

        Raises:
            OSError: Nobody answers within TIMEOUT_S.
        """
        connection = _UnixConnection(self._socket_file)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        except http.client.HTTPException as error:
            raise OSError(f"Envoy's admin interface answered {error!r}") from error
        finally:
            connection.close()

    def active_requests(self) -> int:
        """Gives how many requests run through the edge now.

        Raises:
            OSError: Nobody answers.
        """
        name = "http.edge.downstream_rq_active"
        _, body = self.request("GET", f"/stats?filter=^{name}$")
        values = [line.split(":")[1] for line in body.splitlines() if line.startswith(f"{name}:")]
        return int(values[0]) if values else 0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, socket_file: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._socket_file = socket_file

    def connect(self) -> None:
        # A socket's whole path may have 107 bytes; through a descriptor of its directory it is always short.
        directory = os.open(self._socket_file.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{directory}/{self._socket_file.name}")
        finally:
            os.close(directory)


def open_probe(spec: ProbeSpec, run_directory: Path, supervisor: IdentityFiles) -> Probe:
    """Makes the probe that `spec` describes.

    Raises:
        OSError: The supervisor's identity can't be read.
    """
    if spec.kind == "envoy":
        return EnvoyProbe(EnvoyAdmin(run_directory / spec.address))
    return GrpcProbe(spec.address, spec.server_name, supervisor)
