"""Who is let in: ext_authz of the small deployment, and the identity that travels on."""

import base64
import json
import secrets
from typing import Any

import grpc
import jwt
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from google.rpc import status_pb2

from redoma_kit.errors import STATUS_DETAILS_KEY, Failure
from redoma_kit.identity import METADATA_KEY
from tests.unit.cli.conformance.world import Defect, Who, World

HTTP_STATUS = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
SIGNING_SECRET = secrets.token_bytes(32)
READ = frozenset({"tenant.read", "tenant.admin", "platform.admin"})
ADMIN = frozenset({"tenant.admin", "platform.admin"})
OWNER = frozenset({"tenant.owner", "platform.admin"})
OPERATOR = frozenset({"platform.admin"})
BY_SERVICE = {
    "redoma.chat.v1.ConversationService": frozenset({"conversations"}),
    "redoma.chat.v1.ChatService": frozenset({"conversations"}),
    "redoma.tenant.v1.ApiKeyService": ADMIN,
    "redoma.tenant.v1.UserService": ADMIN,
    "redoma.tenant.v1.UsageService": READ,
    "redoma.tenant.v1.AuditService": READ,
    "redoma.tenant.v1.PrivacyService": OWNER,
}
BY_METHOD = {"GetTenant": READ, "GetQuota": READ}


def scopes_for(path: str) -> frozenset[str]:
    """Gives the scopes of which one is needed."""
    service, _, method = path.partition("?")[0].lstrip("/").rpartition("/")
    if not service.startswith("redoma."):
        return frozenset({"generate"})
    if "IdentityProvider" in method:
        return OPERATOR
    return BY_METHOD.get(method) or BY_SERVICE.get(service, OPERATOR)


class Gate(external_auth_pb2_grpc.AuthorizationServicer):
    """Knows keys, and nothing else."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def Check(
        self, request: external_auth_pb2.CheckRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> external_auth_pb2.CheckResponse:
        http = request.attributes.request.http
        is_grpc = http.headers.get("content-type", "").startswith("application/grpc")
        inbound = http.headers.get(METADATA_KEY, "")
        if inbound and self.world.has(Defect.TRUSTS_INBOUND_IDENTITY):
            return admitted(inbound)
        credential = http.headers.get("authorization", "")
        who = self._who(credential.removeprefix("Bearer ") if credential.startswith("Bearer ") else "")
        if isinstance(who, Failure):
            return self._refusal(who, credential, is_grpc)
        if not self.world.has(Defect.CHECKS_NO_SCOPES) and not scopes_for(http.path) & set(who.scopes):
            missing = Failure(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", "The key may not do this.", {})
            return self._refusal(missing, credential, is_grpc)
        claims = {"sub": who.principal, "tenant": who.tenant, "scopes": list(who.scopes), "jti": who.token_id}
        return admitted(jwt.encode(claims, SIGNING_SECRET, algorithm="HS256"))

    def _who(self, credential: str) -> Who | Failure:
        key = self.world.keys.get(credential)
        if key is None:
            return Failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID", "The key is not known.", {})
        if key.revoked and not self.world.has(Defect.CACHES_KEYS):
            return Failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REVOKED", "The key was revoked.", {})
        tenant = self.world.tenants.get(key.tenant)
        if tenant is not None and tenant.state != tenant.STATE_ACTIVE and not self.world.has(Defect.CACHES_KEYS):
            return Failure(grpc.StatusCode.PERMISSION_DENIED, "TENANT_DISABLED", "The tenant is disabled.", {})
        return Who(key.name, key.tenant, key.scopes, secrets.token_hex(8))

    def _refusal(self, failure: Failure, credential: str, is_grpc: bool) -> external_auth_pb2.CheckResponse:
        message = failure.message
        if self.world.has(Defect.ECHOES_KEYS):
            message = f"{message} You sent {credential}"
        if self.world.has(Defect.ECHOES_KEYS_IN_BASE64):
            message = f"{message} You sent {base64.b64encode(credential.encode()).decode()}"
        response = external_auth_pb2.CheckResponse(status=status_pb2.Status(code=failure.code.value[0]))
        denied = response.denied_response
        denied.status.code = HTTP_STATUS[failure.code.name]  # type: ignore[assignment]
        denied.body = message if is_grpc else openai_error(failure.reason, message)
        header = denied.headers.add().header
        if is_grpc:
            details = base64.b64encode(failure.status().SerializeToString()).rstrip(b"=").decode()
            header.key, header.value = STATUS_DETAILS_KEY, details
        else:
            header.key, header.value = "content-type", "application/json"
        return response


def admitted(identity: str) -> external_auth_pb2.CheckResponse:
    """Lets a request in with an identity."""
    response = external_auth_pb2.CheckResponse()
    header = response.ok_response.headers.add().header
    header.key, header.value = METADATA_KEY, identity
    return response


def who_calls(world: World, context: "grpc.aio.ServicerContext[Any, Any]") -> Who:
    """Reads the identity of a call, as services do."""
    token = next((value for key, value in context.invocation_metadata() or () if key == METADATA_KEY), "")
    trusting = world.has(Defect.TRUSTS_INBOUND_IDENTITY)
    try:
        options = {"verify_signature": not trusting, "verify_aud": False, "verify_exp": not trusting}
        claims = jwt.decode(token, SIGNING_SECRET, algorithms=["HS256"], options=options)  # type: ignore[arg-type]
    except jwt.InvalidTokenError:
        claims = {"sub": "", "tenant": "", "scopes": [], "jti": ""}
    return Who(claims["sub"], claims["tenant"], tuple(claims["scopes"]), claims["jti"])


def openai_error(reason: str, message: str) -> str:
    """Gives an error in OpenAI's shape."""
    code = {"CREDENTIAL_INVALID": "invalid_api_key"}.get(reason, reason.lower())
    return json.dumps({"error": {"message": message, "type": "x", "param": None, "code": code}})
