"""Roles on the wire."""

from redoma.tenant.v1 import user_pb2
from redoma_kit.errors import InvalidField
from redoma_tenant.users import Role

ROLES = {
    Role.VIEWER: user_pb2.ROLE_VIEWER,
    Role.MEMBER: user_pb2.ROLE_MEMBER,
    Role.ADMIN: user_pb2.ROLE_ADMIN,
    Role.OWNER: user_pb2.ROLE_OWNER,
}
ROLES_IN = {number: role for role, number in ROLES.items()}


def role_in(field: str, number: "user_pb2.Role.ValueType") -> Role | None:
    """Gives the role in a request's field, None if there is none.

    Raises:
        InvalidField: It is no role that there is.
    """
    if number == user_pb2.ROLE_UNSPECIFIED:
        return None
    if number not in ROLES_IN:
        raise InvalidField(field, "must be ROLE_VIEWER, ROLE_MEMBER, ROLE_ADMIN or ROLE_OWNER.")
    return ROLES_IN[number]
