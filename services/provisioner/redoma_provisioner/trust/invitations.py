"""What lets a joining site's own network link: asked of this site's driver, and refused in this service's words."""

from redoma_provisioner.errors import NetworkDriverRefused, NetworkDriverUnavailable
from redoma_provisioner.network.driver import DriverKind, DriverRefused, DriverUnavailable, NetworkDriver


class Invitations:
    """Lets the site's driver say what a joining site's own network needs to link."""

    def __init__(self, driver: NetworkDriver) -> None:
        self._driver = driver

    async def invite(self, kind: DriverKind, site: str, ttl_s: float) -> str:
        """Gives what lets a private site link, once; empty for a driver that needs nothing.

        Raises:
            NetworkDriverRefused, NetworkDriverUnavailable: In the words of what carries the network.
        """
        if not kind.links_with(self._driver.kind):
            raise NetworkDriverRefused(
                kind,
                f"The token is for the driver {kind.value}, and the public site's is {self._driver.kind.value} by now; "
                "ask for another token.",
            )
        try:
            return await self._driver.invite(site, ttl_s)
        except DriverRefused as error:
            raise NetworkDriverRefused(kind, str(error)) from error
        except DriverUnavailable as error:
            raise NetworkDriverUnavailable(kind, str(error)) from error
