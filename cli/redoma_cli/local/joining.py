"""Brings the sites of this machine up, and joins the private one to its network where it has not joined yet."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from redoma_cli.errors import CliError
from redoma_cli.local.driver import Driver, links_with
from redoma_cli.local.home import write_private
from redoma_cli.local.membership import (
    Membership,
    MembershipDamaged,
    Step,
    read_membership,
    read_state,
    trouble_of,
    utc_now,
)
from redoma_cli.local.private_site import DEFAULT_SITE
from redoma_cli.local.site import LocalSites
from redoma_cli.local.standing import (
    LINK_TIMEOUT_S,
    SKUPPER_LINK_TIMEOUT_S,
    LinkOfBoth,
    LinkOfPrivate,
    MembershipForgotten,
    Standing,
    ask_standing,
    revoked,
)
from redoma_cli.local.state import ProcessState
from redoma_cli.local.up import SiteStarter, edge_ready

DONE, RUNNING = "done", "running"


class Reporter(Protocol):
    """Tells a person what goes on."""

    def show(self, states: Mapping[str, ProcessState]) -> None:
        """Shows how the processes are."""

    def step(self, step: Step) -> None:
        """Tells a step."""


@dataclass(frozen=True, slots=True)
class SiteRaiser:
    """Brings up what runs on this machine.

    Attributes:
        sites: What that is.
        starter: Starts processes.
        reporter: Is told of progress.
        settle: Makes the demo tenants, so that there is an administrator's key whatever becomes of joining.
    """

    sites: LocalSites
    starter: SiteStarter
    reporter: Reporter
    settle: Callable[[], object]

    def raise_both(self) -> bool:
        """Brings up both sites, joined by a real grant; says whether all ran already, unchanged.

        Raises:
            CliError: Something does not come up.
            OSError: A file can't be written or read.
        """
        public = self.sites.public_specs()
        self.sites.write_join_settings()
        membership, trouble = self._membership()
        if membership is not None and not trouble:
            specs = public + self.sites.private_specs(membership.site)
            try:
                return self.starter.start(specs, self.reporter.show, self._link_of(membership.site))
            except CliError:
                self._settle_if_possible()
                raise
            except MembershipForgotten:
                trouble = "The public site does not know it any more."
        site = (membership.site if membership else read_state(self._directory).site) or DEFAULT_SITE
        self.starter.start(public, self.reporter.show, self._edge_listens)
        self.settle()
        if trouble:
            self.reporter.step(Step(f"Join site {site} anew", DONE, trouble))
        self._join(self._grant(site))
        specs = public + self.sites.private_specs(self._joined_site())
        self.starter.start(specs, self.reporter.show, self._link_of(site))
        return False

    def raise_public(self) -> bool:
        """Brings up the public site alone; says whether it ran already, unchanged.

        Raises:
            CliError: Something does not come up.
            OSError: A file can't be written or read.
        """
        return self.starter.start(self.sites.public_specs(), self.reporter.show, self._edge_listens)

    def raise_private(self, token: str, link_file: Path | None = None) -> bool:
        """Brings up the private site alone, joining first if there is a token that it has not joined with.

        `link_file` is what `skupper link generate` wrote, where that is wanted.

        Returns:
            Whether it ran already, unchanged.

        Raises:
            CliError: It has not joined, or something does not come up.
            OSError: A file can't be written or read.
        """
        self.sites.write_join_settings()
        joined_with = self.sites.home.private.config / "joined-with"
        digest = hashlib.sha256("".join(token.split()).encode()).hexdigest()
        joined_now = bool(token) and not (joined_with.exists() and joined_with.read_text().strip() == digest)
        if joined_now:
            self._join(token, link_file)
            write_private(joined_with, f"{digest}\n".encode())
            # What ran for a former membership begins anew; nothing of that is left.
            self.starter.clear()
        membership, trouble = self._membership()
        if membership is None or trouble:
            raise self._not_joined(membership, trouble)
        self._check_driver()
        link = LinkOfPrivate(
            lambda: read_state(self._directory),
            timeout_s=LINK_TIMEOUT_S if self.sites.options.choice.driver.has_gateway else SKUPPER_LINK_TIMEOUT_S,
            waits=lambda sentence: self.reporter.step(Step("Wait for the link", RUNNING, sentence)),
        )
        specs = self.sites.private_specs(membership.site)
        return self.starter.start(specs, self.reporter.show, link) and not joined_now

    @property
    def _directory(self) -> Path:
        return self.sites.home.private.membership

    def _edge_listens(self) -> bool:
        return edge_ready(self.sites.options.port, "/healthz")

    def _settle_if_possible(self) -> None:
        """Leaves an administrator's key, for who has to find out why the private site is not linked."""
        if self._edge_listens():
            with contextlib.suppress(CliError, OSError):
                self.settle()

    def _link_of(self, site: str) -> LinkOfBoth:
        edge, key = self.sites.edge, self.sites.admin_key
        return LinkOfBoth(self.sites.options.port, site, lambda name: ask_standing(edge, key, name))

    def _membership(self) -> tuple[Membership | None, str]:
        """Gives the membership there is, and why it can't be used; that is empty where it can, or there is none."""
        authority = self.sites.authority.certificate if self.sites.options.choice.sites.has_public else None
        try:
            membership = read_membership(self._directory)
        except MembershipDamaged as error:
            return None, str(error)
        return membership, trouble_of(self._directory, membership, authority, utc_now()) if membership else ""

    def _grant(self, site: str) -> str:
        standing, _ = ask_standing(self.sites.edge, self.sites.admin_key, site)
        if standing is Standing.REVOKED:
            raise revoked(site)
        token = self.sites.public_provisioner().make_link_grant(site, rejoin=standing is Standing.JOINED)
        self.reporter.step(Step(f"Make a grant for site {site}", DONE))
        return token

    def _join(self, token: str, link_file: Path | None = None) -> None:
        self.sites.private_provisioner().join(token, self.reporter.step, link_file)

    def _check_driver(self) -> None:
        """Raises CliError where the site has joined over another driver than is chosen here."""
        joined, chosen = read_state(self._directory).driver, self.sites.options.choice.driver.kind
        if joined and not links_with(joined, chosen):
            wanted = Driver.EMBEDDED if joined == Driver.EMBEDDED else Driver.SKUPPER_SYSTEM
            raise CliError(
                f"The network that this site has joined is carried by {joined}, and {chosen} is chosen here.",
                f"redoma up --site private --driver {wanted}",
            )

    def _joined_site(self) -> str:
        membership, trouble = self._membership()
        if membership is None or trouble:
            raise CliError(f"Joining left no membership that can be used. {trouble}".strip(), "Try again: redoma up")
        return membership.site

    def _not_joined(self, membership: Membership | None, trouble: str) -> CliError:
        site = membership.site if membership else read_state(self._directory).site
        rejoin = " --rejoin" if site else ""
        return CliError(
            f"This site can't go on. {trouble}" if trouble else "This site has not joined a network yet.",
            f"On the public site: redoma van grant --site {site or 'NAME'}{rejoin}; "
            "then here: redoma up --site private --join TOKEN",
        )
