"""What is listed and looked up is found by an index, so that it costs the same however many tenants there are."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from sqlalchemy import event, text

from redoma_kit.database import PLATFORM, Database
from redoma_tenant.pages import TimePlace
from redoma_tenant.server import SCHEMA
from redoma_tenant.store.api_keys import SqlApiKeyStore
from redoma_tenant.store.erasures import SqlErasureStore
from redoma_tenant.store.tenants import SqlTenantStore
from redoma_tenant.store.users import SqlUserStore
from tests.rpc.tenant.tenant_site import TenantSite

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUERIES: dict[str, Callable[[Database], Awaitable[Any]]] = {
    "a page of tenants": lambda database: SqlTenantStore(database).list_tenants("acme", 101),
    "a tenant": lambda database: SqlTenantStore(database).find_tenant("acme"),
    "tenants to purge": lambda database: SqlErasureStore(database).due_tenants(NOW, 100),
    "a page of keys": lambda database: SqlApiKeyStore(database).list_api_keys("acme", TimePlace(NOW, "0"), 101),
    "a page of operators' keys": lambda database: SqlApiKeyStore(database).list_api_keys("", None, 101),
    "a key": lambda database: SqlApiKeyStore(database).find_api_key("acme", "0" * 16),
    "a page of users": lambda database: SqlUserStore(database).list_users("acme", "0" * 32, 101),
    "a user": lambda database: SqlUserStore(database).find_user("acme", "0" * 32),
}


async def plan_of(database: Database, statement: str, parameters: Any) -> str:
    """Gives how the database would find the rows of a large table."""
    is_postgresql = database.engine.dialect.name == "postgresql"
    async with database.transaction(PLATFORM) as session:
        if is_postgresql:
            await session.execute(text("SET LOCAL enable_seqscan = off"))
        connection = await session.connection()
        explain = "EXPLAIN " if is_postgresql else "EXPLAIN QUERY PLAN "
        rows = (await connection.exec_driver_sql(explain + statement, parameters)).all()
    return "\n".join(str(tuple(row)[0 if is_postgresql else 3]) for row in rows)


@pytest.mark.parametrize("what", QUERIES)
async def test_no_table_is_read_from_end_to_end(site_on_each: TenantSite, what: str) -> None:
    await site_on_each.add_tenant("acme")
    url = site_on_each.server.database.engine.url.render_as_string(hide_password=False)
    database = Database(url, structlog.get_logger(), SCHEMA)
    ran: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        ran.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    await QUERIES[what](database)
    selects = [(statement, parameters) for statement, parameters in ran if statement.startswith("SELECT")]
    assert selects
    for statement, parameters in selects:
        plan = await plan_of(database, statement, parameters)
        assert "SCAN" not in plan.replace("SCAN CONSTANT ROW", ""), plan
        assert "Seq Scan" not in plan, plan
    await database.close()
