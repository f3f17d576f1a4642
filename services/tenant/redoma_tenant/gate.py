"""Decides whether the edge lets a request in, and with what identity."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from redoma_kit.errors import (
    CredentialInvalid,
    DomainError,
    ErrorTable,
    MethodDenied,
    ResourceNotFound,
    ScopeMissing,
    failure_of,
)
from redoma_tenant.audit.chain import Event
from redoma_tenant.audit.wording import CREDENTIAL
from redoma_tenant.authenticator import Authenticator
from redoma_tenant.caller import MODEL_SCOPES, Caller
from redoma_tenant.errors import ModelsDenied, OperatorKeyRefused, SourceDenied
from redoma_tenant.failures import Failures
from redoma_tenant.identity import IdentityMinter, Principal
from redoma_tenant.last_use import LastUses
from redoma_tenant.routes import Route, RouteTable
from redoma_tenant.sources import parse_address

GRPC_PATH = re.compile(r"/[A-Za-z0-9_.]+\.[A-Za-z0-9_]+/[A-Za-z0-9_]+")
SHOWN_PATH_CHARACTERS = 200
ADMITTED = "ADMITTED"


@dataclass(frozen=True, slots=True)
class Request:
    """A request at the edge.

    Attributes:
        verb: Its HTTP method.
        path: As the client sent it, with its query.
        credential: What it shows; None if nothing.
        source: The address it comes from.
        request_id: What the logs have it under.
    """

    verb: str
    path: str
    credential: str | None
    source: str
    request_id: str


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


class PassageSink(Protocol):
    """Where denied requests are noted, and admitted ones that no other part of this service sees."""

    def note(self, event: Event) -> None:
        """Notes one; does not wait."""


class Gate:
    """Route, credential, address, scopes; in this order, so that an unknown path costs no lookup."""

    __slots__ = ("_authenticator", "_errors", "_failures", "_last_uses", "_minter", "_now", "_passages", "_routes")

    def __init__(
        self,
        routes: RouteTable,
        authenticator: Authenticator,
        failures: Failures,
        minter: IdentityMinter,
        last_uses: LastUses,
        passages: PassageSink,
        errors: ErrorTable,
        now: Callable[[], datetime],
    ) -> None:
        self._routes = routes
        self._authenticator = authenticator
        self._failures = failures
        self._minter = minter
        self._last_uses = last_uses
        self._passages = passages
        self._errors = errors
        self._now = now

    async def admit(self, request: Request) -> Admission:
        """Admits a request.

        Raises:
            MethodDenied, ResourceNotFound: Nothing is served at the path, gRPC or REST.
            CredentialInvalid, CredentialRevoked, CredentialExpired, TenantDisabled: The credential is refused.
            SignInSlowed: It is refused, and so were many from the same address.
            SourceDenied: The key may not be used from there.
            ScopeMissing, OperatorKeyRefused, ModelsDenied, RoleMissing: The credential may not do this.
            StorageUnavailable, IdentityProviderUnavailable: The credential can't be looked up now.
        """
        route = self._routes.resolve(request.verb, request.path)
        path = _shown(request.path)
        action = path if route is None else route.method
        try:
            if route is None:
                raise _not_served(request.verb, path)
            caller = await self._authenticate(request)
        except DomainError as error:
            self._note(request, action, failure_of(error, self._errors).reason, None)
            raise
        try:
            scopes = _checked(caller, route, request.source)
        except DomainError as error:
            self._note(request, action, failure_of(error, self._errors).reason, caller.principal)
            raise
        return self._admitted(request, caller, route, scopes)

    async def _authenticate(self, request: Request) -> Caller:
        if request.credential is None:
            raise CredentialInvalid("The request has no API key; send it as `Authorization: Bearer <key>`.")
        try:
            return await self._authenticator.authenticate(request.credential)
        except CredentialInvalid:
            await self._failures.slow(parse_address(request.source))
            raise

    def _admitted(self, request: Request, caller: Caller, route: Route, scopes: frozenset[str]) -> Admission:
        if caller.api_key is not None:
            self._last_uses.note(caller.api_key)
        if route.is_noted:
            self._note(request, route.method, ADMITTED, caller.principal)
        token = self._minter.mint(caller.principal, scopes, route.method, route.audience)
        return Admission(caller.principal, route, token)

    def _note(self, request: Request, action: str, result: str, principal: Principal | None) -> None:
        self._passages.note(
            Event(
                chain=principal.tenant if principal else "",
                time=self._now(),
                actor=principal.name if principal else "",
                action=action,
                resource="",
                source=request.source,
                result=result,
                request_id=request.request_id,
                details={},
            )
        )


def _checked(caller: Caller, route: Route, source: str) -> frozenset[str]:
    """Gives the scopes that the identity is to carry."""
    if caller.networks is not None and not caller.may_call_from(parse_address(source)):
        raise SourceDenied()
    scopes = route.scopes & caller.principal.scopes
    if not scopes:
        raise _lacking(caller, route)
    return scopes


def _lacking(caller: Caller, route: Route) -> DomainError:
    if not caller.principal.tenant:
        return OperatorKeyRefused(route.wanted_scope)
    if caller.lacks_models and route.scopes & MODEL_SCOPES:
        return ModelsDenied(route.wanted_scope)
    return ScopeMissing(route.wanted_scope)


def _shown(path: str) -> str:
    """Gives a path fit to be told and kept: some clients put their key there."""
    return CREDENTIAL.sub("…", path.partition("?")[0])[:SHOWN_PATH_CHARACTERS]


def _not_served(verb: str, path: str) -> DomainError:
    return MethodDenied(path) if GRPC_PATH.fullmatch(path) else ResourceNotFound(f"{verb} {path}")
