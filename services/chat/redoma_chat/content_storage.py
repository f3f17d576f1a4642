"""Where a tenant wants the texts of its conversations to be kept."""

from enum import Enum


class ContentStorage(Enum):
    """The places."""

    PUBLIC = "PUBLIC"
    NONE = "NONE"
    PRIVATE = "PRIVATE"
