"""Somebody who owns the database and changes what is only ever added to."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import asyncpg
from sqlalchemy import make_url

from redoma_tenant.server import SCHEMA
from tests.fakes.postgres import SUPERUSER
from tests.rpc.tenant.tenant_site import TenantSite

APPEND_ONLY = ("audit_entries", "ledger_transactions", "ledger_entries")
Row = Sequence[object]


class Intruder:
    """Runs SQL past every guard of the service's database."""

    def __init__(self, site: TenantSite) -> None:
        self._file = site.database_file
        self._url = site.database_url

    async def run(self, *statements: str) -> None:
        """Runs statements with the guards away."""
        if not self._url:
            self._on_sqlite(self._file, statements)
            return
        connection = await self._connect()
        try:
            for statement in ("SET session_replication_role = replica", *statements):
                await connection.execute(statement)
        finally:
            await connection.close()

    async def read(self, query: str) -> list[Row]:
        """Gives the rows of a query."""
        if not self._url:
            with sqlite3.connect(self._file) as connection:
                return list(connection.execute(query))
        connection = await self._connect()
        try:
            return [tuple(row.values()) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def _connect(self) -> asyncpg.Connection:
        url = make_url(self._url)
        return await asyncpg.connect(
            host=str(url.query["host"]),
            user=SUPERUSER,
            database=url.database,
            server_settings={"search_path": SCHEMA},
        )

    def _on_sqlite(self, file: Path, statements: Sequence[str]) -> None:
        with sqlite3.connect(file, timeout=10) as connection:
            for table in APPEND_ONLY:
                for change in ("update", "delete"):
                    connection.execute(f"DROP TRIGGER IF EXISTS {table}_refuses_{change}")
            for statement in statements:
                connection.execute(statement)
        connection.close()
