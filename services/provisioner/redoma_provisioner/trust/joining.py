"""How a private site joins: a program that runs once, shows each step, and can be run again whatever became of it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from redoma_kit.join_token import JoinToken, NotAToken, TokenDamaged, parse_token
from redoma_provisioner.network.site_conditions import LONGEST_CLOCK_DIFFERENCE
from redoma_provisioner.trust import join_failure
from redoma_provisioner.trust.bundle import BundleOutdated, BundleRefused, authority_certificates, verify_bundle
from redoma_provisioner.trust.certificate_check import CertificateNotYetValid, CertificateRefused, check_certificates
from redoma_provisioner.trust.connectors import ExposedConnector
from redoma_provisioner.trust.grant import code_hash
from redoma_provisioner.trust.join_failure import JoinFailed
from redoma_provisioner.trust.keeper import kept_of
from redoma_provisioner.trust.keys import PendingKey, make_key, public_der
from redoma_provisioner.trust.membership_files import MembershipBusy, MembershipFiles, MembershipSet, ServiceIdentity
from redoma_provisioner.trust.names import SERVICES
from redoma_provisioner.trust.redemption import Admission, JoinRequest
from redoma_provisioner.trust.standing_file import JoinStep, Phase, SiteStanding, StandingFile, standing_of

# Certificates begin five minutes before they are signed.
MAX_CLOCK_OFFSET = timedelta(minutes=4)
TITLES = (
    "Read the token",
    "Make keys, which stay here",
    "Reach the public site",
    "Check that it is the one that made the token",
    "Redeem the token",
    "Keep the certificates and the trust bundle",
)
Say = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class Meeting:
    """What a server says before anybody believes it.

    Attributes:
        authorities: The certificates that it gives as its authority's.
        server: Its own certificate.
        date: Its clock; None: it does not say.
    """

    authorities: Sequence[x509.Certificate]
    server: x509.Certificate
    date: datetime | None


class JoinChannel(Protocol):
    """What reaches a public site. Both methods raise JoinFailed."""

    async def meet(self, address: str) -> Meeting:
        """Asks for the authority's certificate, believing nobody yet."""
        ...

    async def redeem(self, address: str, authority: bytes, request: JoinRequest) -> Admission:
        """Redeems a grant with a server that `authority`, PEM, has signed."""
        ...


class Joining:
    """One attempt to join. `say` is told of every change of a step, and at the end of what came of it.

    `waits_for` is what the public site may take long for while the token is redeemed; empty where it does not.
    """

    def __init__(
        self,
        directory: Path,
        exposed: Sequence[ExposedConnector],
        channel: JoinChannel,
        now: Callable[[], datetime],
        say: Say,
        waits_for: str = "",
    ) -> None:
        self._waits_for = waits_for
        self._files = MembershipFiles(directory)
        self._standing_file = StandingFile(directory)
        self._exposed = tuple(exposed)
        self._channel = channel
        self._now = now
        self._say = say
        self._standing = SiteStanding(Phase.JOINING, steps=tuple(JoinStep(title) for title in TITLES))
        self._former: MembershipSet | None = None
        self._step = 0
        self._may_write = False

    async def join(self, text: str, link_resources: str = "") -> bool:
        """Joins with a token, and says whether it has; done again after a crash, it goes on where it was.

        `link_resources` are documents by which the site's Skupper links, in place of those that the public site gives.
        """
        try:
            with ExitStack() as stack:
                await self._join(text, link_resources, stack)
        except JoinFailed as failure:
            self._fail(failure)
        except OSError as error:
            self._fail(join_failure.disk_failed(error, is_redeemed=self._step == len(TITLES) - 1))
        self._say(
            {
                "phase": self._standing.phase.value,
                "site": self._standing.site,
                "error": _error_value(self._standing),
            }
        )
        return self._standing.error is None

    async def _join(self, text: str, link_resources: str, stack: ExitStack) -> None:
        self._go_on(0)
        token = _token(text)
        self._go_on(1)
        self._files.prepare()
        try:
            stack.enter_context(self._files.locked())
        except MembershipBusy as error:
            raise JoinFailed("MEMBERSHIP_BUSY", str(error), join_failure.AGAIN) from None
        self._former = _read(self._files)
        self._may_write = True
        keys = self._keys(token)
        self._go_on(2, running=token.address)
        meeting = await self._channel.meet(token.address)
        self._go_on(3, done=token.address)
        authority = _authority_of(token, meeting)
        clock = self._checked_clock(token.address, meeting)
        self._go_on(4, done=clock, running=self._waits_for)
        try:
            admission = await self._redeem(token, authority, keys)
        except JoinFailed as failure:
            if failure.error.reason != "GRANT_REDEEMED" or not self._has_joined_with(token):
                raise
            self._finish("this site has joined with it already")
            return
        self._go_on(5, done=f"it is for the site {admission.site}")
        self._keep(token, authority, keys, admission, link_resources)
        self._finish()

    def _keys(self, token: JoinToken) -> Sequence[PendingKey]:
        """Gives keys that wait for certificates, those of an attempt that broke off if there are any."""
        pending = self._files.read_pending()
        in_force = () if self._former is None else [one.key for one in self._former.identities.values()]
        is_used = any(key.key in in_force for key in pending) and not self._has_joined_with(token)
        if is_used or {key.service for key in pending} != set(SERVICES):
            pending = tuple(make_key(service) for service in SERVICES)
            self._files.write_pending(pending)
        return pending

    async def _redeem(self, token: JoinToken, authority: x509.Certificate, keys: Sequence[PendingKey]) -> Admission:
        request = JoinRequest(token.code, tuple(key.request for key in keys), self._exposed)
        pem = authority.public_bytes(serialization.Encoding.PEM)
        return await self._channel.redeem(token.address, pem, request)

    def _checked_clock(self, address: str, meeting: Meeting) -> str:
        """Gives a remark on the clock, before the token is used up with one that is wrong."""
        now = self._now()
        offset = None if meeting.date is None else meeting.date - now
        if offset is not None and abs(offset) > MAX_CLOCK_OFFSET:
            raise join_failure.clock_wrong(offset)
        if now < meeting.server.not_valid_before_utc:
            raise join_failure.clock_wrong(None)
        if now >= meeting.server.not_valid_after_utc:
            raise join_failure.certificate_expired(address, meeting.server.not_valid_after_utc)
        if offset is not None and abs(offset) > LONGEST_CLOCK_DIFFERENCE:
            side = "behind" if offset > timedelta() else "ahead of"
            return f"this machine's clock is {join_failure.describe(abs(offset))} {side} the public site's: set it soon"
        return ""

    def _keep(
        self,
        token: JoinToken,
        authority: x509.Certificate,
        keys: Sequence[PendingKey],
        admission: Admission,
        link_resources: str,
    ) -> None:
        chains = {one.service: one.chain for one in admission.certificates}
        try:
            bundle = verify_bundle(admission.trust_bundle, [authority], admission.site, 0)
            public_keys = {key.service: public_der(key.key) for key in keys}
            check_certificates(chains, public_keys, authority_certificates(bundle), admission.site, self._now())
        except CertificateNotYetValid:
            raise join_failure.clock_wrong(None) from None
        except (BundleRefused, BundleOutdated) as error:
            raise join_failure.unusable(f"its trust bundle {error}") from None
        except CertificateRefused as error:
            raise join_failure.unusable(f"the certificate {error}") from None
        self._files.write_link(link_resources or admission.skupper_resources)
        self._former = MembershipSet(
            "".join(bundle.content.authorities),
            bundle.content.identity_keys,
            admission.trust_bundle,
            {key.service: ServiceIdentity(chains[key.service].encode(), key.key) for key in keys},
            admission.driver,
            admission.link_address,
            code_hash(token.code),
        )
        self._files.write(self._former)

    def _has_joined_with(self, token: JoinToken) -> bool:
        return self._former is not None and self._former.joined_with == code_hash(token.code)

    def _go_on(self, step: int, done: str = "", running: str = "") -> None:
        """Says that the step before is done, and that this one runs, with a remark on each."""
        if step:
            self._set(step - 1, "done", done)
        self._step = step
        self._set(step, "running", running)

    def _finish(self, detail: str = "") -> None:
        if self._former is not None:
            self._standing = standing_of(kept_of(self._former), self._standing)
        for step in range(self._step, len(TITLES)):
            self._set(step, "done", detail)
        self._files.drop_pending()

    def _fail(self, failure: JoinFailed) -> None:
        # A site that has joined goes on as it is.
        if self._former is None:
            self._standing = replace(self._standing, phase=Phase.REFUSED, error=failure.error)
        else:
            self._standing = replace(standing_of(kept_of(self._former), self._standing), error=failure.error)
        try:
            self._set(self._step, "failed", failure.error.message)
        except OSError:
            self._may_write = False
            self._set(self._step, "failed", failure.error.message)

    def _set(self, step: int, state: str, detail: str) -> None:
        changed = JoinStep(TITLES[step], state, detail)
        steps = self._standing.steps
        if steps[step] != changed:
            self._standing = replace(self._standing, steps=(*steps[:step], changed, *steps[step + 1 :]))
            if self._may_write:
                self._standing_file.write(self._standing, self._now())
            self._say({"step": step + 1, "of": len(TITLES), "title": changed.title, "state": state, "detail": detail})


def _token(text: str) -> JoinToken:
    try:
        return parse_token(text)
    except NotAToken as error:
        raise JoinFailed("TOKEN_INVALID", str(error), "Copy the whole token, or ask for another.") from None
    except TokenDamaged as error:
        raise JoinFailed("TOKEN_DAMAGED", str(error), "Copy the whole token, or ask for another.") from None


def _read(files: MembershipFiles) -> MembershipSet | None:
    """Gives what the site joined with before; nothing where that is damaged, since joining mends it."""
    try:
        former = files.read()
        if former is not None:
            kept_of(former)
    except (OSError, ValueError):
        return None
    return former


def _authority_of(token: JoinToken, meeting: Meeting) -> x509.Certificate:
    for certificate in meeting.authorities:
        if certificate.fingerprint(hashes.SHA256()) == token.digest:
            return certificate
    raise join_failure.another_server(token.address)


def _error_value(standing: SiteStanding) -> Mapping[str, str] | None:
    error = standing.error
    return None if error is None else {"reason": error.reason, "message": error.message, "mend": error.mend}
