"""What a provider's claims mean here: which tenant, which role, which scopes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from redoma_tenant.api_key import CONVERSATIONS, GENERATE
from redoma_tenant.names import MAX_DISPLAY_NAME, TENANT_ID
from redoma_tenant.oidc.tokens import Claims
from redoma_tenant.policy import TENANT_ADMIN, TENANT_OWNER, TENANT_READ

# From the weakest to the strongest.
SCOPES_BY_ROLE: Mapping[str, frozenset[str]] = {
    "VIEWER": frozenset({TENANT_READ}),
    "MEMBER": frozenset({GENERATE, CONVERSATIONS}),
    "ADMIN": frozenset({GENERATE, CONVERSATIONS, TENANT_READ, TENANT_ADMIN}),
    "OWNER": frozenset({GENERATE, CONVERSATIONS, TENANT_READ, TENANT_ADMIN, TENANT_OWNER}),
}
STRENGTH = {role: strength for strength, role in enumerate(SCOPES_BY_ROLE)}
NAME_CLAIMS = ("name", "preferred_username")


@dataclass(frozen=True, slots=True)
class TrustedProvider:
    """An issuer whose tokens for an audience are credentials.

    Attributes:
        issuer: As its tokens say it.
        audience: That its tokens must be for.
        tenant: The id of all its users' tenant; empty if a claim says it.
        tenant_claim: The claim that says it then.
        roles_claim: The claim with a user's roles; empty is none.
        roles: Our role for each of its values.
        default_role: The role of users that nothing gives one; empty refuses them.
        operator_role: The value that makes a platform operator; empty is none.
    """

    issuer: str
    audience: str
    tenant: str
    tenant_claim: str
    roles_claim: str
    roles: Mapping[str, str]
    default_role: str
    operator_role: str

    def is_operator(self, claims: Claims) -> bool:
        """Says whether the claims make a platform operator."""
        return bool(self.operator_role) and self.operator_role in self._role_values(claims)

    def tenant_of(self, claims: Claims) -> str:
        """Gives the id of the user's tenant; empty if the claims name none."""
        if self.tenant:
            return self.tenant
        value = _claim(claims, self.tenant_claim)
        return value if isinstance(value, str) and TENANT_ID.fullmatch(value) else ""

    def role_of(self, claims: Claims) -> str:
        """Gives the strongest role that the claims are mapped to; empty if they are to none."""
        roles = [self.roles[value] for value in self._role_values(claims) if value in self.roles]
        return max((role for role in roles if role in STRENGTH), key=STRENGTH.__getitem__, default="")

    def _role_values(self, claims: Claims) -> Iterable[str]:
        value = _claim(claims, self.roles_claim)
        if isinstance(value, str):
            return (value,)
        return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def display_name_of(claims: Claims) -> str:
    """Gives what a user is called, fit to be kept; empty if the claims don't say."""
    for name in NAME_CLAIMS:
        value = claims.get(name)
        if isinstance(value, str):
            return "".join(character for character in value if character.isprintable())[:MAX_DISPLAY_NAME]
    return ""


def _claim(claims: Claims, name: str) -> object:
    """Gives a claim by its name or, as Keycloak has `realm_access.roles`, by a path of names within each other."""
    if not name:
        return None
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found
