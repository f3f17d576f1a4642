"""How a site joins: its code is exchanged, once, for certificates and the trust bundle."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from redoma_provisioner.errors import GrantExpired, GrantRedeemed, GrantRevoked, GrantUnknown
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.bundles import Bundles
from redoma_provisioner.trust.connectors import ExposedConnector, checked_connectors
from redoma_provisioner.trust.csr import (
    CertificateRequest,
    CheckedRequest,
    check_services,
    checked_requests,
    keys_digest,
)
from redoma_provisioner.trust.grant import GrantState, LinkGrant, code_hash
from redoma_provisioner.trust.record import CertificateRecord
from redoma_provisioner.trust.wrong_codes import WrongCodes

# How long a lost answer is given again.
REPEATED_FOR = timedelta(minutes=1)
# The link's own credential is used at once; a slow machine needs some time to come to it.
INVITATION_S = 900.0
# Once a redemption lost to another, the grant says why.
ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What a site sends to join."""

    code: str = field(repr=False)
    certificate_requests: tuple[CertificateRequest, ...]
    connectors: tuple[ExposedConnector, ...]


@dataclass(frozen=True, slots=True)
class SiteCertificate:
    """The certificate of one service, PEM, with what leads to the authority's."""

    service: str
    chain: str


@dataclass(frozen=True, slots=True)
class Admission:
    """What a site needs to be part of the network.

    Attributes:
        site: Its id.
        driver: What carries its links.
        certificates: One for each request, in their order.
        trust_bundle: Signed.
        link_address: host:port where the embedded driver links.
        skupper_resources: What lets its Skupper link, once; empty without Skupper.
    """

    site: str
    driver: DriverKind
    certificates: tuple[SiteCertificate, ...]
    trust_bundle: str
    link_address: str
    skupper_resources: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Redemption:
    """What is kept when a site joins. `answer` holds its certificates, nothing secret."""

    keys_digest: str
    answer: bytes
    records: tuple[CertificateRecord, ...]
    connectors: tuple[ExposedConnector, ...]


@dataclass(frozen=True, slots=True)
class KnownGrant:
    """A grant found by its code, with what was kept when it was redeemed."""

    grant: LinkGrant
    is_site_revoked: bool
    keys_digest: str
    answer: bytes


class RedemptionStore(Protocol):
    """Where grants are found and redeemed."""

    async def find_by_code(self, code_hash: str) -> KnownGrant | None:
        """Gives the grant whose code has this hash."""
        ...

    async def redeem(self, grant: LinkGrant, redemption: Redemption, now: datetime) -> bool:
        """Lets the grant's site join, all or nothing; False if the grant can't be redeemed, or not any more."""
        ...


Invite = Callable[[DriverKind, str, float], Awaitable[str]]


class Redeemer:
    """Lets sites join.

    `invite` gives what lets a site's own network link, by driver, site and seconds; `changed` is told when one joined.
    """

    __slots__ = ("_address", "_authority", "_bundles", "_changed", "_invite", "_now", "_store", "_wrong_codes")

    def __init__(
        self,
        store: RedemptionStore,
        authority: Authority,
        bundles: Bundles,
        address: str,
        invite: Invite,
        wrong_codes: WrongCodes,
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._authority = authority
        self._bundles = bundles
        self._address = address
        self._invite = invite
        self._wrong_codes = wrong_codes
        self._now = now
        self._changed = changed

    async def redeem(self, request: JoinRequest, source: str) -> Admission:
        """Redeems a grant for the caller at the address `source`. See RedeemLinkGrant of the contract.

        Raises:
            GrantUnknown, GrantRedeemed, GrantExpired, GrantRevoked: The code lets nobody in.
            JoinSlowed: It is wrong, and so were many from the same address.
            InvalidField: A certificate request or a connector can't be used; the grant is left.
            DomainError: As `invite` raises it; the grant is left.
        """
        check_services("certificate_requests", request.certificate_requests)
        hash_of_code = code_hash(request.code)
        for _ in range(ATTEMPTS):
            known = await self._store.find_by_code(hash_of_code)
            if known is None:
                self._wrong_codes.note(source)
                raise GrantUnknown()
            keys = checked_requests("certificate_requests", request.certificate_requests)
            certificates = self._given_before(known, keys)
            connectors = checked_connectors("connectors", known.grant.site, request.connectors)
            # Before the grant is used up, since it may fail.
            resources = await self._invite(known.grant.driver, known.grant.site, INVITATION_S)
            if certificates is None:
                certificates = await self._join(known.grant, keys, connectors)
            if certificates is not None:
                return await self._admission(known.grant, certificates, resources)
        raise GrantRevoked()

    def _given_before(self, known: KnownGrant, keys: Sequence[CheckedRequest]) -> tuple[SiteCertificate, ...] | None:
        """Gives the certificates that were given for the same code and keys; None while the grant can be redeemed."""
        now, grant = self._now(), known.grant
        state = grant.state(now)
        if known.is_site_revoked or state is GrantState.REVOKED:
            raise GrantRevoked()
        if state is GrantState.EXPIRED:
            raise GrantExpired(grant.expire_time)
        if state is GrantState.ACTIVE:
            return None
        is_recent = grant.redeem_time is not None and now - grant.redeem_time <= REPEATED_FOR
        if not (is_recent and known.answer and known.keys_digest == keys_digest(keys)):
            raise GrantRedeemed(grant.site)
        given = dict(json.loads(known.answer))
        return tuple(SiteCertificate(key.service, given[key.service]) for key in keys)

    async def _join(
        self, grant: LinkGrant, keys: Sequence[CheckedRequest], connectors: tuple[ExposedConnector, ...]
    ) -> tuple[SiteCertificate, ...] | None:
        issued = [self._authority.issue(grant.site, key) for key in keys]
        certificates = tuple(SiteCertificate(one.record.service, one.chain) for one in issued)
        answer = json.dumps([[one.service, one.chain] for one in certificates]).encode()
        redemption = Redemption(keys_digest(keys), answer, tuple(one.record for one in issued), connectors)
        if not await self._store.redeem(grant, redemption, self._now()):
            return None
        self._changed()
        return certificates

    async def _admission(
        self, grant: LinkGrant, certificates: tuple[SiteCertificate, ...], resources: str
    ) -> Admission:
        # What fails here is asked for again, with the same keys.
        _, bundle = await self._bundles.signed(grant.site)
        return Admission(grant.site, grant.driver, certificates, bundle, self._address, resources)
