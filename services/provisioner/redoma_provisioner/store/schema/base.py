"""What all tables share."""

from sqlalchemy import MetaData

from redoma_kit.database.columns import NAMES_OF_CONSTRAINTS, UtcDateTime

__all__ = ["METADATA", "UtcDateTime"]

METADATA = MetaData(naming_convention=NAMES_OF_CONSTRAINTS)
