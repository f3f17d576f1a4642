"""ApiKeyService on the wire."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from redoma.tenant.v1 import api_key_pb2, api_key_pb2_grpc
from redoma_kit.identity import current_identity
from redoma_tenant.api_keys import ApiKey, ApiKeys, ApiKeySettings, ApiKeyState
from redoma_tenant.names import parse_api_key_name, parse_parent
from redoma_tenant.servicers.times import time_in, timestamp

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

STATES = {
    ApiKeyState.ACTIVE: api_key_pb2.ApiKey.STATE_ACTIVE,
    ApiKeyState.EXPIRED: api_key_pb2.ApiKey.STATE_EXPIRED,
    ApiKeyState.REVOKED: api_key_pb2.ApiKey.STATE_REVOKED,
}


class ApiKeyServicer(api_key_pb2_grpc.ApiKeyServiceServicer):
    """API keys, for operators and for a tenant's administrators."""

    def __init__(self, api_keys: ApiKeys, now: Callable[[], datetime]) -> None:
        self._api_keys = api_keys
        self._now = now

    async def CreateApiKey(
        self, request: api_key_pb2.CreateApiKeyRequest, context: "Context"
    ) -> api_key_pb2.CreateApiKeyResponse:
        """Makes a key."""
        tenant = parse_parent("parent", request.parent, current_identity())
        wanted = request.api_key
        settings = ApiKeySettings(
            display_name=wanted.display_name,
            scopes=tuple(wanted.scopes),
            expire_time=time_in("api_key.expire_time", wanted.expire_time) if wanted.HasField("expire_time") else None,
        )
        api_key, secret = await self._api_keys.create(tenant, settings)
        return api_key_pb2.CreateApiKeyResponse(api_key=self._message(api_key), secret=secret)

    async def ListApiKeys(
        self, request: api_key_pb2.ListApiKeysRequest, context: "Context"
    ) -> api_key_pb2.ListApiKeysResponse:
        """Lists a tenant's keys."""
        tenant = parse_parent("parent", request.parent, current_identity())
        page = await self._api_keys.list(tenant, request.page_size, request.page_token)
        return api_key_pb2.ListApiKeysResponse(
            api_keys=[self._message(api_key) for api_key in page.items], next_page_token=page.next_page_token
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
        )
