"""How many tunnels there are, by what an Envoy of this machine counts."""

import re
from collections.abc import Mapping

from redoma_provisioner.network.drivers.embedded.admin import AdminAway, EnvoyAdmin

# Bootstrap calls these statistics so.
_OF_SITE = re.compile(r"tunnels\.worker_\d+\.node\.([a-z0-9-]+)")


class EgressTunnels:
    """Counts the tunnels of the egress; `admin` is None where its admin interface is out of reach."""

    def __init__(self, admin: EnvoyAdmin | None) -> None:
        self._admin = admin

    async def by_site(self) -> Mapping[str, int] | None:
        """Gives the number of tunnels by site, those with none left out; None: nobody knows."""
        if self._admin is None:
            return None
        try:
            stats = await self._admin.stats(r"^tunnels\.worker_[0-9]+\.node\.")
        except AdminAway:
            return None
        counts: dict[str, int] = {}
        for name, value in stats.items():
            if (match := _OF_SITE.fullmatch(name)) is not None and value:
                counts[match[1]] = counts.get(match[1], 0) + value
        return counts


class GatewayTunnels:
    """Counts the tunnels of a private site's gateway; `admin` is None where its admin interface is out of reach."""

    def __init__(self, admin: EnvoyAdmin | None) -> None:
        self._admin = admin

    async def up(self) -> int | None:
        """Gives the number of tunnels that are up; None: nobody knows.

        Raises:
            AdminAway: The gateway does not answer.
        """
        if self._admin is None:
            return None
        stats = await self._admin.stats(r"^tunnels\.worker_[0-9]+\.cluster\.egress\.connected$")
        return sum(stats.values())
