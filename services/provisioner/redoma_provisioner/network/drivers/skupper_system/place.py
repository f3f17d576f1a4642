"""Where Skupper keeps a namespace of a system site on this machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redoma_provisioner.network.driver import DriverRefused
from redoma_provisioner.network.drivers.skupper.name import checked_label

PLATFORMS = ("podman", "docker", "linux")
ROOT_DATA_HOME = Path("/var/lib/skupper")


@dataclass(frozen=True, slots=True)
class Place:
    """One namespace under Skupper's data home."""

    data_home: Path
    namespace: str

    @property
    def root(self) -> Path:
        """The namespace's own directory."""
        return self.data_home / "namespaces" / self.namespace

    @property
    def input(self) -> Path:
        """What is wanted, as people and Redoma write it."""
        return self.root / "input" / "resources"

    @property
    def snapshot(self) -> Path:
        """What of `input` Skupper has taken up."""
        return self.root / "internal" / "snapshot"

    @property
    def runtime(self) -> Path:
        """What Skupper says of it; present once the site was started."""
        return self.root / "runtime" / "resources"

    @property
    def links(self) -> Path:
        """What other sites may link by; each file holds a private key."""
        return self.root / "runtime" / "links"

    @property
    def router_config(self) -> Path:
        """What the router runs on."""
        return self.root / "runtime" / "router" / "skrouterd.json"

    @property
    def platform_file(self) -> Path:
        """What the site was started on."""
        return self.root / "internal" / "platform.yaml"

    @property
    def controller_lock(self) -> Path:
        """What the running system controller holds a lock on."""
        return self.data_home / "namespaces" / "controller.lock"


def find_place(data_home: Path | None, namespace: str, environ: Mapping[str, str], user: int) -> Place:
    """Finds the directory as Skupper's CLI does: root's own, or the user's XDG data home.

    Raises:
        DriverRefused: The namespace's name is not valid, or `data_home` is one that the CLI can't be led to.
    """
    checked_label(namespace, "The namespace")
    if data_home is not None:
        if data_home.name != "skupper":
            raise DriverRefused(
                f"driver.data_home {data_home} does not end in /skupper, which Skupper's CLI appends itself; "
                "give a directory of that name, or leave it out."
            )
        return Place(data_home, namespace)
    if user == 0:
        return Place(ROOT_DATA_HOME, namespace)
    base = environ.get("XDG_DATA_HOME") or os.path.join(environ.get("HOME", "/"), ".local", "share")
    return Place(Path(base) / "skupper", namespace)
