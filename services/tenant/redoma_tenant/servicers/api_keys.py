"""ApiKeyService on the wire."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from redoma.tenant.v1 import api_key_pb2, api_key_pb2_grpc
from redoma_kit.errors import InvalidField
from redoma_kit.identity import current_identity
from redoma_tenant.api_key import ApiKey, ApiKeySettings, ApiKeyState
from redoma_tenant.api_keys import ApiKeys
from redoma_tenant.etags import etag_of
from redoma_tenant.limits import Limits
from redoma_tenant.names import api_key_name, parse_api_key_name, parse_key_parent, parse_user_name, user_name
from redoma_tenant.servicers.field_masks import masked, only
from redoma_tenant.servicers.limits import limits_in, limits_message
from redoma_tenant.servicers.times import duration_in, time_in, timestamp

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

STATES = {
    ApiKeyState.ACTIVE: api_key_pb2.ApiKey.STATE_ACTIVE,
    ApiKeyState.EXPIRED: api_key_pb2.ApiKey.STATE_EXPIRED,
    ApiKeyState.REVOKED: api_key_pb2.ApiKey.STATE_REVOKED,
}
MASKABLE = frozenset({"display_name", "expire_time", "models", "cidrs", "limits", "user"})
DEFAULT_OVERLAP = timedelta(hours=24)


class ApiKeyServicer(api_key_pb2_grpc.ApiKeyServiceServicer):
    """API keys, for operators and for a tenant's administrators."""

    def __init__(self, api_keys: ApiKeys, now: Callable[[], datetime]) -> None:
        self._api_keys = api_keys
        self._now = now

    async def CreateApiKey(
        self, request: api_key_pb2.CreateApiKeyRequest, context: "Context"
    ) -> api_key_pb2.CreateApiKeyResponse:
        """Makes a key."""
        caller = current_identity()
        tenant = parse_key_parent("parent", request.parent, caller)
        api_key, secret = await self._api_keys.create(tenant, _settings(tenant, request.api_key), caller.scopes)
        return api_key_pb2.CreateApiKeyResponse(api_key=self._message(api_key), secret=secret)

    async def ListApiKeys(
        self, request: api_key_pb2.ListApiKeysRequest, context: "Context"
    ) -> api_key_pb2.ListApiKeysResponse:
        """Lists a tenant's keys, or operators'."""
        tenant = parse_key_parent("parent", request.parent, current_identity())
        page = await self._api_keys.list(tenant, request.page_size, request.page_token)
        return api_key_pb2.ListApiKeysResponse(
            api_keys=[self._message(api_key) for api_key in page.items], next_page_token=page.next_page_token
        )

    async def UpdateApiKey(
        self, request: api_key_pb2.UpdateApiKeyRequest, context: "Context"
    ) -> api_key_pb2.UpdateApiKeyResponse:
        """Changes a key's settings."""
        caller = current_identity()
        tenant, api_key_id = parse_api_key_name("api_key.name", request.api_key.name, caller)
        names = masked(request.api_key, request.update_mask.paths, MASKABLE)
        wanted = _settings(tenant, only(request.api_key, names))
        etag = request.api_key.etag
        api_key = await self._api_keys.update(tenant, api_key_id, wanted, names, etag, caller.scopes)
        return api_key_pb2.UpdateApiKeyResponse(api_key=self._message(api_key))

    async def RotateApiKey(
        self, request: api_key_pb2.RotateApiKeyRequest, context: "Context"
    ) -> api_key_pb2.RotateApiKeyResponse:
        """Makes a key to take another's place."""
        caller = current_identity()
        tenant, api_key_id = parse_api_key_name("name", request.name, caller)
        overlap = duration_in("overlap", request.overlap) if request.HasField("overlap") else DEFAULT_OVERLAP
        api_key, secret, former = await self._api_keys.rotate(tenant, api_key_id, overlap, caller.scopes)
        return api_key_pb2.RotateApiKeyResponse(
            api_key=self._message(api_key), secret=secret, former=self._message(former)
        )

    async def RevokeApiKey(
        self, request: api_key_pb2.RevokeApiKeyRequest, context: "Context"
    ) -> api_key_pb2.RevokeApiKeyResponse:
        """Revokes a key."""
        tenant, api_key_id = parse_api_key_name("name", request.name, current_identity())
        return api_key_pb2.RevokeApiKeyResponse(api_key=self._message(await self._api_keys.revoke(tenant, api_key_id)))

    def _message(self, api_key: ApiKey) -> api_key_pb2.ApiKey:
        return api_key_pb2.ApiKey(
            name=api_key.name,
            display_name=api_key.display_name,
            prefix=api_key.prefix,
            scopes=api_key.scopes,
            expire_time=timestamp(api_key.expire_time),
            state=STATES[api_key.state(self._now())],
            create_time=timestamp(api_key.create_time),
            last_use_time=timestamp(api_key.last_use_time),
            revoke_time=timestamp(api_key.revoke_time),
            models=api_key.models,
            cidrs=api_key.cidrs,
            limits=None if api_key.limits == Limits() else limits_message(api_key.limits),
            user=user_name(api_key.tenant, api_key.user) if api_key.user else "",
            replaced_by=api_key_name(api_key.tenant, api_key.replaced_by) if api_key.replaced_by else "",
            etag=etag_of(api_key.version),
        )


def _settings(tenant: str, wanted: api_key_pb2.ApiKey) -> ApiKeySettings:
    return ApiKeySettings(
        display_name=wanted.display_name,
        scopes=tuple(wanted.scopes),
        expire_time=time_in("api_key.expire_time", wanted.expire_time) if wanted.HasField("expire_time") else None,
        models=tuple(wanted.models),
        cidrs=tuple(wanted.cidrs),
        limits=limits_in(wanted.limits),
        user=_user(tenant, wanted.user) if wanted.user else "",
    )


def _user(tenant: str, name: str) -> str:
    of, user = parse_user_name("api_key.user", name, current_identity())
    if of != tenant:
        raise InvalidField("api_key.user", "must be a user of the key's tenant.")
    return user
