"""Regenerates gen/python from proto/ and from the Envoy protos inside the xds-protos wheel.

Run by `make gen`. Envoy's stubs are generated for the external authorization and discovery APIs alone: the wheel as a whole overwrites
files of googleapis-common-protos and opentelemetry-proto, so it is unpacked aside and never installed.
"""

import importlib
import importlib.resources
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GEN = ROOT / "gen" / "python"
BUILD = ROOT / "build"
ENVOY_ROOTS = ("envoy.service.auth.v3.external_auth_pb2", "envoy.service.discovery.v3.ads_pb2")
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
sys.stdout.buffer.write(files.SerializeToString())
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


def generate_envoy(wheel: Path) -> None:
    """Generates the same for ENVOY_ROOTS and what they import."""
    unpacked = BUILD / "xds"
    shutil.rmtree(unpacked, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    bundle = BUILD / "envoy.binpb"
    with bundle.open("wb") as out:
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(unpacked)!r})\n{COLLECT}", *ENVOY_ROOTS]
        subprocess.run(command, stdout=out, check=True)
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
    generate_envoy(wheels[-1])
    print(f"Generated {sum(1 for _ in GEN.rglob('*.py'))} modules in {GEN.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
