"""What carries the links between sites on two machines, as a person chose it."""

import enum
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redoma_cli.errors import CliError
from redoma_cli.local.toml import Table

DATA_HOME = "data_home"
PATHS = (DATA_HOME, "kubeconfig")


class Driver(enum.StrEnum):
    """What carries links: Envoy alone, or Skupper on this machine or in a cluster."""

    EMBEDDED = "embedded"
    SKUPPER_SYSTEM = "skupper-system"
    SKUPPER_KUBERNETES = "skupper-kubernetes"


# Which environment variable gives which setting of the provisioner's `driver`.
VARIABLES: Mapping[Driver, Mapping[str, str]] = {
    Driver.EMBEDDED: {},
    Driver.SKUPPER_SYSTEM: {
        "namespace": "REDOMA_SKUPPER_NAMESPACE",
        "platform": "REDOMA_SKUPPER_PLATFORM",
        DATA_HOME: "REDOMA_SKUPPER_DATA_HOME",
    },
    Driver.SKUPPER_KUBERNETES: {
        "namespace": "REDOMA_SKUPPER_NAMESPACE",
        "kubeconfig": "REDOMA_SKUPPER_KUBECONFIG",
        "access_type": "REDOMA_SKUPPER_ACCESS_TYPE",
        "owner": "REDOMA_SKUPPER_OWNER",
    },
}
DEFAULTS: Mapping[Driver, Mapping[str, str]] = {
    Driver.SKUPPER_SYSTEM: {"namespace": "redoma", "platform": "podman"},
}
PLATFORMS = ("podman", "docker", "linux")


@dataclass(frozen=True, slots=True)
class DriverChoice:
    """What carries the links.

    Attributes:
        kind: Which driver.
        settings: What the provisioner is told of it besides, by name; sorted.
    """

    kind: Driver = Driver.EMBEDDED
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def has_gateway(self) -> bool:
        """Whether a private site has an Envoy of its own, before services that listen on no port."""
        return self.kind is Driver.EMBEDDED

    @property
    def table(self) -> Table:
        """The provisioner's settings of it."""
        return {"kind": self.kind.value, **dict(self.settings)}


def read_driver(table: Mapping[str, object]) -> DriverChoice:
    """Reads what `DriverChoice.table` gave.

    Raises:
        KeyError, ValueError: It is something else.
    """
    return _choice(Driver(str(table["kind"])), {name: str(value) for name, value in table.items()})


EMBEDDED = DriverChoice()


def choose_driver(kept: DriverChoice | None, wanted: Driver | None, environ: Mapping[str, str]) -> DriverChoice:
    """Gives the driver in force: what a person says now, else what was kept, else the embedded one.

    Raises:
        CliError: There is no such platform.
    """
    kind = wanted or (kept.kind if kept else Driver.EMBEDDED)
    before = dict(kept.settings) if kept is not None and kept.kind is kind else {}
    said = {name: environ[variable] for name, variable in VARIABLES[kind].items() if environ.get(variable)}
    said |= {name: str(Path(said[name]).expanduser().resolve()) for name in PATHS if name in said}
    choice = _choice(kind, {**DEFAULTS.get(kind, {}), **before, **said})
    platform = choice.table.get("platform", PLATFORMS[0])
    if platform not in PLATFORMS:
        raise CliError(f"REDOMA_SKUPPER_PLATFORM={platform} is no platform.", f"Choose among: {', '.join(PLATFORMS)}")
    return choice


def links_with(joined: str, chosen: Driver) -> bool:
    """Whether a site of the driver `chosen` can be part of what was joined: Skupper's are one network everywhere."""
    return (joined == Driver.EMBEDDED) == (chosen is Driver.EMBEDDED)


def check_program(choice: DriverChoice, environ: Mapping[str, str]) -> None:
    """Raises CliError where the driver needs Skupper's command line and the PATH has none."""
    if choice.kind is Driver.SKUPPER_SYSTEM and shutil.which("skupper", path=environ.get("PATH")) is None:
        raise CliError(
            "Skupper's command line is not on the PATH.",
            "Install Skupper 2.2.1 from the releases of github.com/skupperproject/skupper; "
            "docs/operations/skupper.md says what else it needs.",
        )


def _choice(kind: Driver, settings: Mapping[str, str]) -> DriverChoice:
    known = VARIABLES[kind]
    return DriverChoice(kind, tuple(sorted((name, value) for name, value in settings.items() if name in known)))
