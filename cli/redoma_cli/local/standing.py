"""How a private site stands with the public one: what keeps calls from getting through, as a person is told it."""

import enum
import time
from collections.abc import Callable
from dataclasses import replace

import grpc

from redoma.provisioner.v1.condition_pb2 import Condition
from redoma.provisioner.v1.network_pb2 import GetSiteRequest
from redoma.provisioner.v1.site_pb2 import Site
from redoma_cli.client import EdgeClient
from redoma_cli.errors import CliError
from redoma_cli.local.home import Home
from redoma_cli.local.membership import LINKED, Failure, MembershipState, read_state
from redoma_cli.local.plan import pid_file
from redoma_cli.local.process import PidFile
from redoma_cli.local.up import edge_ready

ASK_TIMEOUT_S = 2.0
ASK_EVERY_S = 2.0
# How long the link may take once every process is ready.
LINK_TIMEOUT_S = 60.0
# The same where Skupper starts a site first, and may fetch its router.
SKUPPER_LINK_TIMEOUT_S = 240.0
# How long the public site may refuse the private one: right after joining it takes a moment to know it.
REFUSED_TIMEOUT_S = 15.0
# What the private provisioner calls it where no waiting helps.
REFUSED = ("CertificateRefused", "NotAdmitted", "WrongAuthority", "WrongServer", "CertificateExpired")
LOOKS = "A site that was revoked is let in only after `redoma van delete SITE` there. `redoma doctor` says more."
DIALS_ON = "It goes on dialling, and links as soon as it gets through. `redoma doctor` looks for the cause."
NOT_RUNNING = "NotRunning"
OWN_PROVISIONER = "private-provisioner"


class Standing(enum.Enum):
    """What the public site says of a private one."""

    UNTOLD = "untold"
    FORGOTTEN = "forgotten"
    JOINED = "joined"
    REVOKED = "revoked"


class MembershipForgotten(Exception):
    """The public site does not know a site that has joined: its database was lost, or the site was deleted there."""


Ask = Callable[[str], tuple[Standing, str]]


def own_state(home: Home) -> MembershipState:
    """Gives what the private site of this machine last said of itself, corrected by whether it runs."""
    state = read_state(home.private.membership)
    if state.phase not in ("JOINED", LINKED) or PidFile(pid_file(home, OWN_PROVISIONER)).alive() is not None:
        return state
    away = Failure(NOT_RUNNING, "The provisioner of this private site does not run.", "Start it with: redoma up")
    return replace(state, phase="JOINED", linked_since="", error=away)


def ask_standing(edge: str, key: str, site: str) -> tuple[Standing, str]:
    """Asks the public site about a private one: how it stands, and what is wrong with it, as a sentence."""
    try:
        with EdgeClient(edge, key) as client:
            answer = client.network.GetSite(GetSiteRequest(name=f"sites/{site}"), timeout=ASK_TIMEOUT_S)
    except grpc.RpcError as error:
        absent = isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.NOT_FOUND
        return Standing.FORGOTTEN if absent else Standing.UNTOLD, ""
    if answer.site.state == Site.STATE_REVOKED:
        return Standing.REVOKED, ""
    joined = answer.site.state == Site.STATE_JOINED
    return Standing.JOINED if joined else Standing.FORGOTTEN, complaint(answer.site)


def complaint(site: Site) -> str:
    """Gives what is wrong with a site, as a sentence; empty where nothing is."""
    wrong = [condition for condition in site.conditions if condition.status == Condition.STATUS_FALSE]
    return next((condition.message for condition in wrong if condition.message), "")


def revoked(site: str) -> CliError:
    """Gives what is told of a site that was revoked."""
    return CliError(
        f"Site {site} was revoked, so its certificates are refused for good.",
        f"To let it in anew: redoma van delete {site}, then: redoma up",
    )


class LinkOfBoth:
    """Says whether a model answers through the link, where both sites are this person's; raises when it never will."""

    def __init__(
        self,
        port: int,
        site: str,
        ask: Ask,
        clock: Callable[[], float] = time.monotonic,
        ready: Callable[[int], bool] = edge_ready,
    ) -> None:
        self._port = port
        self._site = site
        self._ask = ask
        self._clock = clock
        self._ready = ready
        self._since: float | None = None
        self._asked_at = 0.0

    def __call__(self) -> bool:
        """Asks the edge, and now and then the public site why not.

        Raises:
            MembershipForgotten: The public site does not know this site.
            CliError: The site was revoked, or no call got through for LINK_TIMEOUT_S.
        """
        if self._ready(self._port):
            return True
        now = self._clock()
        if self._since is None:
            self._since = now
        elif now - self._asked_at < ASK_EVERY_S:
            return False
        self._asked_at = now
        standing, trouble = self._ask(self._site)
        if standing is Standing.REVOKED:
            raise revoked(self._site)
        if standing is Standing.FORGOTTEN:
            raise MembershipForgotten()
        if now - self._since >= LINK_TIMEOUT_S:
            raise _not_linked(trouble)
        return False


class LinkOfPrivate:
    """Says whether the private site is linked, by what its own provisioner keeps; raises when it never will be.

    `waits` is told what is missing, in a sentence, each time that this changes.
    """

    def __init__(
        self,
        read: Callable[[], MembershipState],
        clock: Callable[[], float] = time.monotonic,
        timeout_s: float = LINK_TIMEOUT_S,
        waits: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._read = read
        self._clock = clock
        self._timeout_s = timeout_s
        self._waits = waits
        self._told = ""
        self._since: float | None = None

    def __call__(self) -> bool:
        """Looks once.

        Raises:
            CliError: There was no link for as long as it may take, or the site was refused for REFUSED_TIMEOUT_S.
        """
        state = self._read()
        if state.linked:
            return True
        if state.error is not None and state.error.message != self._told:
            self._told = state.error.message
            self._waits(self._told)
        now = self._clock()
        self._since = now if self._since is None else self._since
        is_refused = state.error is not None and state.error.reason in REFUSED
        if now - self._since >= (REFUSED_TIMEOUT_S if is_refused else self._timeout_s):
            if state.error is not None:
                raise CliError(state.error.message, state.error.mend or (LOOKS if is_refused else DIALS_ON))
            raise _not_linked("", self._timeout_s)
        return False


def _not_linked(trouble: str, timeout_s: float = LINK_TIMEOUT_S) -> CliError:
    sentence = f"All processes are ready, but no call gets through the link after {timeout_s:.0f} s."
    return CliError(f"{sentence} {trouble}".strip(), "`redoma van status` and `redoma doctor` say why.")
