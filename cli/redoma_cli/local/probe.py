"""Asks a process whether it lives and whether it is ready. A process that answers `not yet` lives."""

import enum
import http.client
import os
from pathlib import Path
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma_cli.local.pki import IdentityFiles
from redoma_cli.local.plan import ProbeSpec
from redoma_kit.unix_http import UnixConnection

TIMEOUT_S = 2.0
UNIX = "unix:"


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
    """Asks the gRPC health service over mutual TLS, as the supervisor, with the identity that lies there now."""

    def __init__(self, spec: ProbeSpec, run_directory: Path) -> None:
        self._spec = spec
        self._identity = IdentityFiles(Path(spec.identity))
        self._run_directory = run_directory
        self._seen: tuple[int, int] = (0, 0)
        self._directory = -1
        self._channel: grpc.Channel | None = None
        self._stub = self._open()

    def _open(self) -> health_pb2_grpc.HealthStub:
        identity = self._identity
        seen = _version_of(identity.certificate)
        credentials = grpc.ssl_channel_credentials(
            identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
        )
        options = [
            ("grpc.ssl_target_name_override", self._spec.server_name),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        self.close()
        self._channel = grpc.secure_channel(self._target(), credentials, options=options)
        self._seen = seen
        return health_pb2_grpc.HealthStub(self._channel)

    def _target(self) -> str:
        name = self._spec.address.removeprefix(UNIX)
        if name == self._spec.address:
            return name
        # A socket's whole path may have 107 bytes; through a descriptor of its directory it is always short.
        self._directory = os.open(self._run_directory, os.O_PATH | os.O_DIRECTORY)
        return f"{UNIX}/proc/self/fd/{self._directory}/{name}"

    def ask(self) -> Answer:
        """Gives READY when the service as a whole is SERVING, NOT_READY for any other answer."""
        try:
            # A certificate that was replaced may be refused soon.
            if _version_of(self._identity.certificate) != self._seen:
                self._stub = self._open()
        except OSError:
            pass
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
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


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
        connection = UnixConnection(self._socket_file, TIMEOUT_S)
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
        return self.stat("http.edge.downstream_rq_active")

    def stat(self, name: str) -> int:
        """Gives a number that Envoy keeps; 0 for one that it does not keep.

        Raises:
            OSError: Nobody answers.
        """
        _, body = self.request("GET", f"/stats?filter=^{name}$")
        values = [line.split(":")[1] for line in body.splitlines() if line.startswith(f"{name}:")]
        return int(values[0]) if values else 0


def _version_of(file: Path) -> tuple[int, int]:
    """Tells one content of a file from another, by its inode and when it was written."""
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def open_probe(spec: ProbeSpec, run_directory: Path) -> Probe:
    """Makes the probe that `spec` describes; `run_directory` is the working directory of the process.

    Raises:
        OSError: The identity to ask with can't be read.
    """
    if spec.kind == "envoy":
        return EnvoyProbe(EnvoyAdmin(run_directory / spec.address))
    return GrpcProbe(spec, run_directory)
