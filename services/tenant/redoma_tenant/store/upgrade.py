"""Brings the database's schema up to date when the service starts."""

from pathlib import Path

from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

import redoma_tenant
from redoma_kit.database import Database
from redoma_tenant.errors import CannotStart

MIGRATIONS = Path(redoma_tenant.__file__).parent / "migrations"


async def upgrade(database: Database) -> None:
    """Runs the migrations that the database lacks.

    Raises:
        CannotStart: The database can't be reached, or is of a newer release.
    """
    try:
        await database.upgrade(MIGRATIONS)
    except (SQLAlchemyError, CommandError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        url = database.engine.url.render_as_string(hide_password=True)
        raise CannotStart(f"The database {url} can't be brought up to date: {cause}.") from error
