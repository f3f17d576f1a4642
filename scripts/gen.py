"""Regenerates gen/python from proto/ and from the Envoy protos inside the xds-protos wheel.

Run by `make gen`. Envoy's stubs are generated for the external authorization and discovery APIs alone: the wheel as a
whole overwrites files of googleapis-common-protos and opentelemetry-proto, so it is unpacked aside and never installed.
What the Envoys are configured with has descriptors alone, in ENVOY_TYPES, against which the provisioner checks it.
"""

import importlib
import importlib.resources
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GEN = ROOT / "gen" / "python"
BUILD = ROOT / "build"
ENVOY_ROOTS = ("envoy.service.auth.v3.external_auth_pb2", "envoy.service.discovery.v3.ads_pb2")
ENVOY_TYPES = ROOT / "services" / "provisioner" / "redoma_provisioner" / "edge" / "envoy_types.binpb"
ENVOY_CONFIG_ROOTS = (
    "envoy.config.bootstrap.v3.bootstrap_pb2",
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.extensions.access_loggers.stream.v3.stream_pb2",
    "envoy.extensions.bootstrap.internal_listener.v3.internal_listener_pb2",
    "envoy.extensions.bootstrap.reverse_tunnel.downstream_socket_interface.v3."
    "downstream_reverse_connection_socket_interface_pb2",
    "envoy.extensions.bootstrap.reverse_tunnel.upstream_socket_interface.v3."
    "upstream_reverse_connection_socket_interface_pb2",
    "envoy.extensions.clusters.reverse_connection.v3.reverse_connection_pb2",
    "envoy.extensions.filters.http.buffer.v3.buffer_pb2",
    "envoy.extensions.filters.http.cors.v3.cors_pb2",
    "envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2",
    "envoy.extensions.filters.http.fault.v3.fault_pb2",
    "envoy.extensions.filters.http.grpc_json_transcoder.v3.transcoder_pb2",
    "envoy.extensions.filters.http.grpc_web.v3.grpc_web_pb2",
    "envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.filters.http.health_check.v3.health_check_pb2",
    "envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2",
    "envoy.extensions.filters.http.lua.v3.lua_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    "envoy.extensions.filters.network.connection_limit.v3.connection_limit_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.filters.network.reverse_tunnel.v3.reverse_tunnel_pb2",
    "envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2",
    "envoy.extensions.request_id.uuid.v3.uuid_pb2",
    "envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections_pb2",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2",
    "envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2",
    "envoy.extensions.transport_sockets.tls.v3.secret_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    "xds.type.v3.typed_struct_pb2",
)
# These packages come installed with protobuf and googleapis-common-protos.
INSTALLED_PACKAGES = ("google/",)

# Runs with the unpacked wheel first on sys.path; prints the FileDescriptorSet of the roots and all they import.
COLLECT = """
import importlib, sys
from google.protobuf import descriptor_pb2, descriptor_pool
roots = sys.argv[1:]
files, seen = descriptor_pb2.FileDescriptorSet(), set()
def visit(file):
    if file.name in seen:
        return
    seen.add(file.name)
    for dependency in file.dependencies:
        visit(dependency)
    file.CopyToProto(files.file.add())
for root in roots:
    visit(importlib.import_module(root).DESCRIPTOR)
sys.stdout.buffer.write(files.SerializeToString(deterministic=True))
"""


def lay_out_google_protos() -> Path:
    """Copies google/api and google/rpc from the installed wheel to build/protos, where buf and protoc look."""
    target = BUILD / "protos"
    shutil.rmtree(target, ignore_errors=True)
    for marker in ("google.api.annotations_pb2", "google.rpc.status_pb2"):
        source = Path(str(importlib.import_module(marker).__file__)).parent
        for proto in sorted(source.glob("*.proto")):
            destination = target / "google" / source.name / proto.name
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(proto, destination)
    return target


def protoc(*arguments: str) -> None:
    """Runs grpcio-tools' protoc; exits with its message when it fails."""
    from grpc_tools import protoc as grpc_protoc

    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    if grpc_protoc.main(["protoc", *arguments, f"-I{well_known}"]) != 0:
        sys.exit("protoc failed")


def generate_redoma(google_protos: Path) -> None:
    """Generates messages, services and their type stubs for every file under proto/."""
    protos = sorted(str(path) for path in (ROOT / "proto").rglob("*.proto"))
    protoc(
        f"-I{ROOT / 'proto'}",
        f"-I{google_protos}",
        f"--python_out={GEN}",
        f"--grpc_python_out={GEN}",
        f"--mypy_out={GEN}",
        f"--mypy_grpc_out={GEN}",
        *protos,
    )


def unpack(wheel: Path) -> Path:
    """Unpacks the wheel under build/."""
    unpacked = BUILD / "xds"
    shutil.rmtree(unpacked, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


def collect(unpacked: Path, roots: Sequence[str]) -> bytes:
    """Gives a serialized FileDescriptorSet of the roots and all they import, what is imported first."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(unpacked)!r})\n{COLLECT}", *roots]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def write_envoy_types(unpacked: Path) -> None:
    """Writes the descriptors of ENVOY_CONFIG_ROOTS and what they import, less those that protobuf has itself."""
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet.FromString(collect(unpacked, ENVOY_CONFIG_ROOTS))
    kept = [file for file in files.file if not file.name.startswith("google/protobuf/")]
    for file in kept:
        file.ClearField("source_code_info")
    ENVOY_TYPES.parent.mkdir(parents=True, exist_ok=True)
    ENVOY_TYPES.write_bytes(descriptor_pb2.FileDescriptorSet(file=kept).SerializeToString(deterministic=True))


def generate_envoy(unpacked: Path) -> None:
    """Generates the same for ENVOY_ROOTS and what they import."""
    bundle = BUILD / "envoy.binpb"
    bundle.write_bytes(collect(unpacked, ENVOY_ROOTS))
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet.FromString(bundle.read_bytes())
    names = [file.name for file in files.file if not file.name.startswith(INSTALLED_PACKAGES)]
    with_services = [file.name for file in files.file if file.service and file.name in names]
    from grpc_tools import protoc as grpc_protoc

    messages = [f"--python_out={GEN}", f"--mypy_out={GEN}", *names]
    services = [f"--grpc_python_out={GEN}", f"--mypy_grpc_out={GEN}", *with_services]
    for arguments in (messages, services):
        if grpc_protoc.main(["protoc", f"--descriptor_set_in={bundle}", *arguments]) != 0:
            sys.exit("protoc failed on Envoy's protos")


def main() -> None:
    wheels = sorted((ROOT / ".tools" / "wheels").glob("xds_protos-*.whl"))
    if not wheels:
        sys.exit("The xds-protos wheel is missing; run `make gen`, which fetches it first.")
    shutil.rmtree(GEN, ignore_errors=True)
    GEN.mkdir(parents=True)
    google_protos = lay_out_google_protos()
    generate_redoma(google_protos)
    unpacked = unpack(wheels[-1])
    generate_envoy(unpacked)
    write_envoy_types(unpacked)
    print(f"Generated {sum(1 for _ in GEN.rglob('*.py'))} modules in {GEN.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
