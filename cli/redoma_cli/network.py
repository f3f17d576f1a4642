"""The network of sites as a person is told it: read from the public site, or from a private one's own files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from redoma.provisioner.v1.condition_pb2 import Condition
from redoma.provisioner.v1.network_pb2 import WatchNetworkRequest, WatchNetworkResponse
from redoma.provisioner.v1.site_pb2 import Driver, Link, Site
from redoma_cli.client import EdgeClient
from redoma_cli.errors import CliError
from redoma_cli.local.membership import MembershipState

LINKED = "Linked"
PUBLIC_SITE = "public"


@dataclass(frozen=True, slots=True)
class LinkHealth:
    """How a private site is linked.

    Attributes:
        site: Its id.
        word: In a word: Linked, Not linked, Invited, Revoked, Joining, Refused or Not joined.
        sentence: Why, where it is not linked; empty otherwise.
        driver: What carries the link; empty where nobody knows.
        tunnels: Connections it consists of; 0 where nobody knows.
        since: Since when it is linked; None where it is not.
        mend: What to do; empty where nothing needs doing.
    """

    site: str
    word: str
    sentence: str = ""
    driver: str = ""
    tunnels: int = 0
    since: datetime | None = None
    mend: str = ""

    @property
    def linked(self) -> bool:
        """Whether calls get through."""
        return self.word == LINKED


def read_network(client: EdgeClient, timeout_s: float) -> WatchNetworkResponse:
    """Gives the network as it is now.

    Raises:
        grpc.RpcError: The call failed.
        CliError: It was answered by nothing.
    """
    call = client.network.WatchNetwork(WatchNetworkRequest(), timeout=timeout_s)
    for view in call:
        call.cancel()
        return view
    raise CliError("The provisioner told nothing of the network.", "`redoma logs provisioner` has the cause.")


def private_sites(view: WatchNetworkResponse) -> list[Site]:
    """Gives the private sites of a network."""
    return [site for site in view.sites if site_id(site.name) != PUBLIC_SITE]


def links_of(view: WatchNetworkResponse, site: Site) -> list[Link]:
    """Gives the links of a site."""
    return [link for link in view.links if link.name.startswith(f"{site.name}/")]


def health_of(site: Site, links: Sequence[Link]) -> LinkHealth:
    """Says how a site is linked, as the public site sees it."""
    name = site_id(site.name)
    driver = driver_name(site.driver)
    if site.state == Site.STATE_REVOKED:
        return LinkHealth(name, "Revoked", "Its certificates are refused for good.", driver)
    if site.state != Site.STATE_JOINED:
        return LinkHealth(
            name, "Invited", "It has not joined yet.", driver, mend=f"Make a token: redoma van grant --site {name}"
        )
    linked = find_condition(site.conditions, LINKED)
    tunnels = sum(link.tunnels for link in links)
    if linked is not None and linked.status == Condition.STATUS_TRUE:
        return LinkHealth(name, LINKED, "", driver, tunnels, moment(linked.last_transition_time))
    return LinkHealth(name, "Not linked", _why(site, links) or "Nobody has told why.", driver, tunnels)


def health_of_state(state: MembershipState) -> LinkHealth:
    """Says how a private site of this machine is linked, as it sees that itself."""
    words = {"LINKED": LINKED, "JOINED": "Not linked", "JOINING": "Joining", "REFUSED": "Refused"}
    word = words.get(state.phase, "Not joined")
    since = _parsed(state.linked_since) if word == LINKED else None
    sentence, mend = (state.error.message, state.error.mend) if state.error and word != LINKED else ("", "")
    if word == "Not linked" and not sentence:
        sentence = f"The public site at {state.link_address or 'its address'} does not use the link now."
    return LinkHealth(state.site, word, sentence, state.driver, 0, since, mend)


def find_condition(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """Gives the condition of a type."""
    return next((condition for condition in conditions if condition.type == kind), None)


def status_word(condition: Condition) -> str:
    """Says whether a condition holds."""
    return {Condition.STATUS_TRUE: "yes", Condition.STATUS_FALSE: "no"}.get(condition.status, "unknown")


def site_id(name: str) -> str:
    """Gives the id in `sites/{site}` or in the name of what is under it."""
    return name.removeprefix("sites/").partition("/")[0]


def driver_name(driver: "Driver.ValueType") -> str:
    """Gives a driver's name as settings have it; empty for none."""
    if driver == Driver.DRIVER_UNSPECIFIED:
        return ""
    return Driver.Name(driver).removeprefix("DRIVER_").lower().replace("_", "-")


def moment(time: Timestamp) -> datetime | None:
    """Gives a time; None where it is unset."""
    return time.ToDatetime(tzinfo=UTC) if time.seconds else None


def _why(site: Site, links: Sequence[Link]) -> str:
    """Gives the first sentence that says what is wrong: of a link, which is nearest to the cause, then of the site."""
    told = [condition for link in links for condition in link.conditions] + list(site.conditions)
    failing = [condition for condition in told if condition.status == Condition.STATUS_FALSE]
    return next((condition.message for condition in failing if condition.message), "")


def _parsed(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
