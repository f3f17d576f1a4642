"""A public site that lets others join, without a network."""

from dataclasses import dataclass, field

from redoma_kit.database import Database
from redoma_kit.join_token import parse_token
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.store.certificates import SqlCertificateStore
from redoma_provisioner.store.grants import SqlGrantStore
from redoma_provisioner.store.trust import SqlTrustStore
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.bundle import KeySet
from redoma_provisioner.trust.bundles import Bundles
from redoma_provisioner.trust.connectors import ExposedConnector
from redoma_provisioner.trust.grants import Grants, GrantSettings
from redoma_provisioner.trust.redemption import Admission, JoinRequest, Redeemer
from redoma_provisioner.trust.wrong_codes import WrongCodes
from tests.fakes.trust_parties import MovedClock, SiteKeys

ADDRESS = "join.example:8443"
EXPOSED = (
    ExposedConnector("model-0", "model", "unix:model.sock"),
    ExposedConnector("provisioner", "provisioner", "unix:provisioner.sock"),
)


@dataclass
class JoinableSite:
    """The parts of the public site that let others join, on a database."""

    database: Database
    authority: Authority
    clock: MovedClock
    identity_keys: KeySet = field(default_factory=lambda: {"keys": [{"kid": "one"}]})
    changes: int = 0
    invited: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        store = SqlGrantStore(self.database)
        self.certificates = SqlCertificateStore(self.database)
        self.trust = SqlTrustStore(self.database)
        self.bundles = Bundles(self.authority, lambda: self.identity_keys, self.trust, self.clock)
        digest = self.authority.digest
        self.grants = Grants(store, ADDRESS, digest, DriverKind.EMBEDDED, self.clock, self._note_change)
        self.wrong_codes = WrongCodes(lambda: 0.0)
        self.redeemer = Redeemer(
            store, self.authority, self.bundles, ADDRESS, self._invite, self.wrong_codes, self.clock, self._note_change
        )

    def _note_change(self) -> None:
        self.changes += 1

    async def _invite(self, driver: DriverKind, site: str, ttl_s: float) -> str:
        self.invited.append(site)
        return ""

    async def code(self, site: str = "hospital-a", rejoin: bool = False) -> str:
        """Makes a grant and gives its code."""
        _, token = await self.grants.create(GrantSettings(site, rejoin=rejoin), "platform/apiKeys/test")
        return parse_token(token).code

    async def redeem(self, code: str, keys: SiteKeys, source: str = "192.0.2.1") -> Admission:
        """Redeems a code as a site with `keys` does."""
        return await self.redeemer.redeem(JoinRequest(code, keys.requests(), EXPOSED), source)

    async def join(self, site: str = "hospital-a", rejoin: bool = False) -> Admission:
        """Lets a site join."""
        return await self.redeem(await self.code(site, rejoin), SiteKeys())
