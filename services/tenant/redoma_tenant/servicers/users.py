"""UserService on the wire: users and identity providers."""

from typing import TYPE_CHECKING

from redoma.tenant.v1 import user_pb2, user_pb2_grpc
from redoma_kit.errors import InvalidField
from redoma_kit.identity import current_identity
from redoma_tenant.etags import etag_of
from redoma_tenant.identity_providers import IdentityProviders
from redoma_tenant.names import parse_identity_provider_name, parse_parent, parse_user_name
from redoma_tenant.servicers.field_masks import masked, only
from redoma_tenant.servicers.identity_providers import provider_in, provider_message
from redoma_tenant.servicers.roles import ROLES, role_in
from redoma_tenant.servicers.times import timestamp
from redoma_tenant.users import User, UserProfile, Users, UserState

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

STATES = {UserState.ACTIVE: user_pb2.User.STATE_ACTIVE, UserState.DISABLED: user_pb2.User.STATE_DISABLED}
STATES_IN = {number: state for state, number in STATES.items()} | {
    user_pb2.User.STATE_UNSPECIFIED: UserState.ACTIVE,
}
MASKABLE = frozenset({"display_name", "role", "state"})


class UserServicer(user_pb2_grpc.UserServiceServicer):
    """Users, for a tenant's administrators; identity providers, for operators."""

    def __init__(self, users: Users, providers: IdentityProviders) -> None:
        self._users = users
        self._providers = providers

    async def CreateUser(self, request: user_pb2.CreateUserRequest, context: "Context") -> user_pb2.CreateUserResponse:
        """Creates a user."""
        caller = current_identity()
        tenant = parse_parent("parent", request.parent, caller)
        user = await self._users.create(tenant, _profile(request.user), caller.scopes)
        return user_pb2.CreateUserResponse(user=_message(user))

    async def GetUser(self, request: user_pb2.GetUserRequest, context: "Context") -> user_pb2.GetUserResponse:
        """Gets a user."""
        tenant, user_id = parse_user_name("name", request.name, current_identity())
        return user_pb2.GetUserResponse(user=_message(await self._users.get(tenant, user_id)))

    async def ListUsers(self, request: user_pb2.ListUsersRequest, context: "Context") -> user_pb2.ListUsersResponse:
        """Lists a tenant's users."""
        tenant = parse_parent("parent", request.parent, current_identity())
        page = await self._users.list(tenant, request.page_size, request.page_token)
        return user_pb2.ListUsersResponse(
            users=[_message(user) for user in page.items], next_page_token=page.next_page_token
        )

    async def UpdateUser(self, request: user_pb2.UpdateUserRequest, context: "Context") -> user_pb2.UpdateUserResponse:
        """Changes a user."""
        caller = current_identity()
        tenant, user_id = parse_user_name("user.name", request.user.name, caller)
        names = masked(request.user, request.update_mask.paths, MASKABLE)
        wanted = _profile(only(request.user, names))
        user = await self._users.update(tenant, user_id, wanted, names, request.user.etag, caller.scopes)
        return user_pb2.UpdateUserResponse(user=_message(user))

    async def DeleteUser(self, request: user_pb2.DeleteUserRequest, context: "Context") -> user_pb2.DeleteUserResponse:
        """Deletes a user."""
        caller = current_identity()
        tenant, user_id = parse_user_name("name", request.name, caller)
        await self._users.delete(tenant, user_id, request.etag, caller.scopes)
        return user_pb2.DeleteUserResponse()

    async def CreateIdentityProvider(
        self, request: user_pb2.CreateIdentityProviderRequest, context: "Context"
    ) -> user_pb2.CreateIdentityProviderResponse:
        """Makes an issuer's tokens credentials."""
        provider = await self._providers.create(provider_in(request.identity_provider))
        return user_pb2.CreateIdentityProviderResponse(identity_provider=provider_message(provider))

    async def ListIdentityProviders(
        self, request: user_pb2.ListIdentityProvidersRequest, context: "Context"
    ) -> user_pb2.ListIdentityProvidersResponse:
        """Lists identity providers."""
        page = await self._providers.list(request.page_size, request.page_token)
        return user_pb2.ListIdentityProvidersResponse(
            identity_providers=[provider_message(provider) for provider in page.items],
            next_page_token=page.next_page_token,
        )

    async def DeleteIdentityProvider(
        self, request: user_pb2.DeleteIdentityProviderRequest, context: "Context"
    ) -> user_pb2.DeleteIdentityProviderResponse:
        """Deletes an identity provider."""
        await self._providers.delete(parse_identity_provider_name("name", request.name))
        return user_pb2.DeleteIdentityProviderResponse()


def _profile(user: user_pb2.User) -> UserProfile:
    if user.state not in STATES_IN:
        raise InvalidField("user.state", "must be STATE_ACTIVE or STATE_DISABLED.")
    return UserProfile(
        issuer=user.issuer,
        subject=user.subject,
        display_name=user.display_name,
        role=role_in("user.role", user.role),
        state=STATES_IN[user.state],
    )


def _message(user: User) -> user_pb2.User:
    return user_pb2.User(
        name=user.name,
        issuer=user.issuer,
        subject=user.subject,
        display_name=user.display_name,
        role=ROLES[user.role],
        state=STATES[user.state],
        create_time=timestamp(user.create_time),
        update_time=timestamp(user.update_time),
        etag=etag_of(user.version),
    )
