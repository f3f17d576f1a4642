"""What every process of a site that is one of our services has: a settings file, an environment and a probe."""

import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from redoma_cli.local.home import write_private
from redoma_cli.local.pki import IdentityFiles
from redoma_cli.local.plan import ProbeSpec, ProcessSpec, fingerprint
from redoma_cli.local.toml import Table, render_toml

# What a service may need of the environment besides its own settings: where programs, libraries and devices are.
INHERITED = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHON\w+|SSL_CERT_\w+|CUDA_\w+|NVIDIA_\w+|HIP_\w+|ROCR_\w+"
    r"|GGML_\w+|LLAMA_\w+|G?OMP_\w+|OTEL_\w+|HTTPS?_PROXY|https?_proxy|NO_PROXY|no_proxy"
)
# What programs that a provisioner runs, such as Skupper's, need besides: where sockets, sessions and clusters are.
TOOLS = re.compile(r"LOGNAME|(XDG|DBUS|CONTAINER|DOCKER|SKUPPER|KUBERNETES)_\w+")
TOOL_USERS = ("provisioner", "private-provisioner")
# A person's own settings of a service, by the name of its process.
SETTINGS_PREFIXES: Mapping[str, str] = {
    "tenant": "REDOMA_TENANT_",
    "chat": "REDOMA_CHAT_",
    "model": "REDOMA_MODEL_",
    "provisioner": "REDOMA_PROVISIONER_",
    "private-provisioner": "REDOMA_PRIVATE_PROVISIONER_",
}
# What the service itself reads, where that is another.
READ_PREFIXES: Mapping[str, str] = {"private-provisioner": "REDOMA_PROVISIONER_"}


@dataclass(frozen=True, slots=True)
class Program:
    """A service's program.

    Attributes:
        process: Name of the process.
        service: Name of the service, and with `redoma_` before it of its package.
        config: Its settings file.
        directory: Its working directory.
    """

    process: str
    service: str
    config: Path
    directory: Path

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages whose change makes it another program."""
        return (f"redoma_{self.service}", "redoma_kit", "redoma")

    @property
    def argv(self) -> tuple[str, ...]:
        """Its command."""
        return (sys.executable, "-m", f"redoma_{self.service}", "--config", str(self.config))


def service_spec(
    program: Program,
    table: Table,
    server_name: str,
    prober: IdentityFiles,
    environ: Mapping[str, str],
    files: Sequence[Path],
) -> ProcessSpec:
    """Writes a service's settings and plans its process.

    Args:
        program: The service's program.
        table: Its settings.
        server_name: The DNS name in its certificate.
        prober: The identity to ask its health with.
        environ: The person's environment.
        files: Files that it reads at its start only, so that their change needs a new start.

    Raises:
        OSError: A file can't be written or read.
    """
    write_private(program.config, render_toml(table).encode())
    own = own_settings(program.process, environ)
    read = [program.config, *files, *program_files(program.packages)]
    probe = ProbeSpec("grpc", str(table["listen"]), server_name, str(prober.directory))
    return ProcessSpec(
        name=program.process,
        argv=program.argv,
        env=inherited_environment(environ) | _tool_environment(program.process, environ) | own,
        probe=probe,
        fingerprint=fingerprint(program.argv, own, read),
        directory=str(program.directory),
    )


def inherited_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Gives what every process may know of the environment: no credential and no setting of another's."""
    return {name: value for name, value in environ.items() if INHERITED.fullmatch(name)}


def _tool_environment(process: str, environ: Mapping[str, str]) -> dict[str, str]:
    if process not in TOOL_USERS:
        return {}
    # gRPC's own care for forks does nothing for programs that are run, and logs a line for each.
    return {"GRPC_ENABLE_FORK_SUPPORT": "0", **{name: environ[name] for name in environ if TOOLS.fullmatch(name)}}


def own_settings(process: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Gives the settings in the environment that are this process's, by the names that it reads."""
    prefix = SETTINGS_PREFIXES[process]
    read = READ_PREFIXES.get(process, prefix)
    own = {read + name.removeprefix(prefix): value for name, value in environ.items() if name.startswith(prefix)}
    if "REDOMA_MAX_STREAM_S" in environ:
        own["REDOMA_MAX_STREAM_S"] = environ["REDOMA_MAX_STREAM_S"]
    return own


def program_files(packages: Sequence[str]) -> list[Path]:
    """Gives the Python files of packages, which are not imported for it, so that a changed program is started anew."""
    files: list[Path] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            files += sorted(Path(folder).rglob("*.py"))
    return files
