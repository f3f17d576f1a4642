"""Joining as a program: `redoma-provisioner --config FILE --join`, with the token on its standard input."""

from collections.abc import Callable
from datetime import datetime

from redoma_provisioner.errors import CannotStart
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.trust.connectors import ExposedConnector
from redoma_provisioner.trust.join_channel import GrpcJoinChannel
from redoma_provisioner.trust.joining import Joining, Say

ROUTER_IS_PREPARED = "the public site's Skupper prepares a link, which takes 6 s to some minutes"


async def join(
    settings: ProvisionerSettings,
    token: str,
    version: str,
    now: Callable[[], datetime],
    say: Say,
    link_resources: str = "",
) -> int:
    """Joins with a token, tells `say` of each step and at the end of what came of it, and gives the exit status.

    What `say` gets is for JSON: a change of a step (step, of, title, state, detail), and last {phase, site, error};
    nothing in it is secret. `link_resources` are documents by which the site's Skupper links.

    Raises:
        CannotStart: The settings are not those of a private site.
    """
    if settings.role != "private" or settings.membership_dir is None:
        raise CannotStart('Joining needs the settings of a private site: role = "private" and membership_dir.')
    exposed = [ExposedConnector(one.name, one.service, one.target, one.tenant) for one in settings.exposed]
    waits_for = "" if settings.driver.kind == DriverKind.EMBEDDED.value else ROUTER_IS_PREPARED
    joining = Joining(settings.membership_dir, exposed, GrpcJoinChannel(version), now, say, waits_for)
    return 0 if await joining.join(token, link_resources) else 1
