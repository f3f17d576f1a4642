"""Decides whether the edge lets a request in, and with what identity."""

import re
from dataclasses import dataclass

from redoma_kit.errors import CredentialInvalid, DomainError, MethodDenied, ResourceNotFound, ScopeMissing
from redoma_tenant.authenticator import Authenticator
from redoma_tenant.errors import OperatorKeyRefused
from redoma_tenant.identity import IdentityMinter, Principal
from redoma_tenant.last_use import LastUses
from redoma_tenant.routes import Route, RouteTable

GRPC_PATH = re.compile(r"/[A-Za-z0-9_.]+\.[A-Za-z0-9_]+/[A-Za-z0-9_]+")
SHOWN_PATH_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that may go on.

    Attributes:
        principal: Who it is from.
        route: What it is for.
        token: The signed identity to send with it.
    """

    principal: Principal
    route: Route
    token: str


class Gate:
    """Route, credential, scopes; in this order, so that an unknown path costs no lookup."""

    __slots__ = ("_authenticator", "_last_uses", "_minter", "_routes")

    def __init__(
        self, routes: RouteTable, authenticator: Authenticator, minter: IdentityMinter, last_uses: LastUses
    ) -> None:
        self._routes = routes
        self._authenticator = authenticator
        self._minter = minter
        self._last_uses = last_uses

    async def admit(self, verb: str, path: str, credential: str | None) -> Admission:
        """Admits a request with `credential`, None if it carries none.

        Raises:
            MethodDenied, ResourceNotFound: Nothing is served at the path, gRPC or REST.
            CredentialInvalid, CredentialRevoked, CredentialExpired, TenantDisabled: The credential is refused.
            ScopeMissing, OperatorKeyRefused: The credential may not do this.
            StorageUnavailable: The credential can't be looked up now.
        """
        route = self._routes.resolve(verb, path)
        if route is None:
            raise _not_served(verb, path.partition("?")[0][:SHOWN_PATH_CHARACTERS])
        if credential is None:
            raise CredentialInvalid("The request has no API key; send it as `Authorization: Bearer <key>`.")
        caller = await self._authenticator.authenticate(credential)
        scopes = route.scopes & caller.principal.scopes
        if not scopes:
            raise ScopeMissing(route.wanted_scope) if caller.api_key else OperatorKeyRefused(route.wanted_scope)
        token = self._minter.mint(caller.principal, scopes, route.method, route.audience)
        if caller.api_key is not None:
            self._last_uses.note(caller.api_key)
        return Admission(caller.principal, route, token)


def _not_served(verb: str, path: str) -> DomainError:
    return MethodDenied(path) if GRPC_PATH.fullmatch(path) else ResourceNotFound(f"{verb} {path}")
