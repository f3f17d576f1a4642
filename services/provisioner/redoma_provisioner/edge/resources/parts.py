"""Resources on their way into a snapshot."""

from dataclasses import dataclass

from redoma_provisioner.edge.snapshot import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ROUTES,
    SECRET,
    Config,
    InvalidSnapshot,
    Snapshot,
)


class DuplicateResource(InvalidSnapshot):
    """Two resources of a type have the same name; the message names it."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Some of an Envoy's resources."""

    secrets: tuple[Config, ...] = ()
    clusters: tuple[Config, ...] = ()
    endpoints: tuple[Config, ...] = ()
    listeners: tuple[Config, ...] = ()
    routes: tuple[Config, ...] = ()

    def __add__(self, other: "Parts") -> "Parts":
        """Gives these and the other ones."""
        return Parts(
            self.secrets + other.secrets,
            self.clusters + other.clusters,
            self.endpoints + other.endpoints,
            self.listeners + other.listeners,
            self.routes + other.routes,
        )

    def snapshot(self) -> Snapshot:
        """Makes a snapshot of them, in which their order does not count.

        Raises:
            DuplicateResource: Two have the same name.
        """
        return Snapshot(
            {
                SECRET: _named(SECRET, "name", self.secrets),
                CLUSTER: _named(CLUSTER, "name", self.clusters),
                ENDPOINTS: _named(ENDPOINTS, "cluster_name", self.endpoints),
                LISTENER: _named(LISTENER, "name", self.listeners),
                ROUTES: _named(ROUTES, "name", self.routes),
            }
        )


def _named(type_url: str, key: str, configs: tuple[Config, ...]) -> dict[str, Config]:
    named: dict[str, Config] = {}
    for config in sorted(configs, key=lambda config: str(config[key])):
        if config[key] in named:
            raise DuplicateResource(f"there are two resources {config[key]} of the type {type_url}")
        named[config[key]] = config
    return named
