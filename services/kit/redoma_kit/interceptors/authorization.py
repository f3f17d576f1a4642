"""Lets a call in only if the policy table names its method, and caller, identity and scopes fit the rule."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from redoma_kit.callers import FORWARDED_CLIENT_CERT, Callers, CallerUnclear
from redoma_kit.errors import CredentialInvalid, MethodDenied, ScopeMissing
from redoma_kit.identity import METADATA_KEY, IdentityVerifier, set_current_identity
from redoma_kit.interceptors.pipeline import Call
from redoma_kit.policy import ANY_PEER, Policy
from redoma_kit.tls import peer_spiffe_id


class Authorization:
    """Checks caller, then identity, then scopes, and sets the current identity.

    The caller is the peer, or whom it names where it is one of `forwarders`.
    """

    def __init__(self, policy: Policy, verifier: IdentityVerifier, forwarders: Collection[str] = ()) -> None:
        self._policy = policy
        self._verifier = verifier
        self._callers = Callers(forwarders)

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        set_current_identity(None)
        call.peer = self._caller(call)
        rule = self._policy.get(call.method)
        if rule is None or (rule.peers != ANY_PEER and call.peer not in rule.peers):
            raise MethodDenied(call.method)
        if rule.identity:
            identity = self._verifier.verify(call.metadata(METADATA_KEY))
            if rule.bound_method and identity.method != call.method:
                raise CredentialInvalid("The call's identity was made for another method.")
            call.identity = identity
            set_current_identity(identity)
            if rule.any_scope and not rule.any_scope & identity.scopes:
                raise ScopeMissing(min(rule.any_scope))
            for scope in sorted(rule.all_scopes - identity.scopes):
                raise ScopeMissing(scope)
        yield

    def _caller(self, call: Call) -> str:
        peer = peer_spiffe_id(call.context.auth_context())
        try:
            return self._callers.caller(peer, call.metadata_values(FORWARDED_CLIENT_CERT))
        except CallerUnclear:
            raise MethodDenied(call.method) from None
