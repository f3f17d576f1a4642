"""Identity providers on the wire."""

from redoma.tenant.v1 import user_pb2
from redoma_kit.errors import InvalidField
from redoma_tenant.identity_providers import MAX_ROLE_VALUE, IdentityProvider
from redoma_tenant.names import parse_tenant_name, tenant_name
from redoma_tenant.servicers.roles import ROLES, role_in
from redoma_tenant.servicers.times import timestamp
from redoma_tenant.users import Role

FIELD = "identity_provider"


def provider_in(message: user_pb2.IdentityProvider) -> IdentityProvider:
    """Gives the provider in a request, without what is output only.

    Raises:
        InvalidField: The tenant's name has not the form of one, or a role is none that there is.
    """
    return IdentityProvider(
        issuer=message.issuer,
        audience=message.audience,
        tenant=parse_tenant_name(f"{FIELD}.tenant", message.tenant) if message.tenant else "",
        tenant_claim=message.tenant_claim,
        roles_claim=message.roles_claim,
        roles={value: _meant(value, number) for value, number in message.roles.items()},
        default_role=role_in(f"{FIELD}.default_role", message.default_role),
        operator_role=message.operator_role,
    )


def provider_message(provider: IdentityProvider) -> user_pb2.IdentityProvider:
    """Gives a provider as protobuf has it."""
    return user_pb2.IdentityProvider(
        name=provider.name,
        issuer=provider.issuer,
        audience=provider.audience,
        tenant=tenant_name(provider.tenant) if provider.tenant else "",
        tenant_claim=provider.tenant_claim,
        roles_claim=provider.roles_claim,
        roles={value: ROLES[role] for value, role in provider.roles.items()},
        default_role=ROLES[provider.default_role] if provider.default_role else user_pb2.ROLE_UNSPECIFIED,
        create_time=timestamp(provider.create_time),
        operator_role=provider.operator_role,
    )


def _meant(value: str, number: "user_pb2.Role.ValueType") -> Role:
    is_short = len(value) <= MAX_ROLE_VALUE and value.isprintable()
    field = f"{FIELD}.roles[{value}]" if is_short else f"{FIELD}.roles"
    role = role_in(field, number)
    if role is None:
        raise InvalidField(field, "must be a role.")
    return role
