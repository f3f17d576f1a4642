"""What users may do, as people write it."""

from enum import StrEnum

from redoma.tenant.v1 import user_pb2


class RoleName(StrEnum):
    """A role of a user."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"
    OWNER = "owner"

    @property
    def number(self) -> "user_pb2.Role.ValueType":
        """The role as protobuf has it."""
        return user_pb2.Role.Value(f"ROLE_{self.name}")


def role_text(role: "user_pb2.Role.ValueType") -> str:
    """Gives a role for people; empty for none."""
    return "" if role == user_pb2.ROLE_UNSPECIFIED else user_pb2.Role.Name(role).removeprefix("ROLE_").lower()
