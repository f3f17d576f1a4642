"""What was found in the namespace, by kind and name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from redoma_provisioner.network.drivers.skupper.status import told
from redoma_provisioner.network.drivers.skupper_kubernetes.api import Manifest
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import SITE, Kind
from redoma_provisioner.network.drivers.skupper_kubernetes.ownership import is_of, name_of


@dataclass(frozen=True, slots=True)
class Known:
    """All that one look at the namespace gave.

    Attributes:
        site: The Redoma site whose namespace it is.
        found: By kind.
    """

    site: str
    found: Mapping[Kind, tuple[Manifest, ...]] = field(repr=False)

    def all(self, kind: Kind) -> dict[str, Manifest]:
        """Gives every resource of a kind, by name."""
        return {name_of(one): one for one in self.found.get(kind, ())}

    def ours(self, kind: Kind) -> dict[str, Manifest]:
        """Gives those that this driver made."""
        return {name: one for name, one in self.all(kind).items() if is_of(one, self.site)}

    def theirs(self, kind: Kind) -> dict[str, Manifest]:
        """Gives those that others made."""
        return {name: one for name, one in self.all(kind).items() if not is_of(one, self.site)}

    @property
    def active_site(self) -> Manifest | None:
        """The Site that counts: a namespace has one, and Skupper refuses any other. None: there is none."""
        sites = [*self.theirs(SITE).values(), *self.ours(SITE).values()]
        configured = [one for one in sites if told(one, "Configured").holds is True]
        return next(iter(configured or sites), None)

    @property
    def active_site_name(self) -> str | None:
        """The name of the Site that Skupper has taken up; None: none yet."""
        active = self.active_site
        return name_of(active) if active is not None and told(active, "Configured").holds is True else None

    @property
    def uses_their_site(self) -> bool:
        """Whether the Site that counts is another's."""
        active = self.active_site
        return active is not None and not is_of(active, self.site)
