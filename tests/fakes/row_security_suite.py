"""What must hold of every table of a service on PostgreSQL, with the policies as the only guard."""

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError

from redoma_kit.database import AUTH, PLATFORM, Scope
from tests.fakes.guarded_tables import TENANTS, Guarded

ACME, GLOBEX = TENANTS
REFUSED = "permission denied|row-level security"


async def check_catalogue(guarded: Guarded, grants: dict[str, tuple[str, str, str]]) -> None:
    """Every table is owned by the owner, under policies that all are forced under, and has just these grants."""
    name = guarded.schema.name
    security = await guarded.security()
    assert security.keys() - {"alembic_version"} == guarded.schema.metadata.tables.keys() == grants.keys()
    for table in guarded.schema.metadata.sorted_tables:
        assert security[table.name] == (True, True, f"{name}_owner"), table.name
        policies = dict(await guarded.policies(table.name))
        column = guarded.schema.tenant_column(table)
        roles, verb, whose, new = policies.pop("app")
        assert (roles, verb, new) == ({f"{name}_app"}, "ALL", None), table.name
        if column is None:
            assert whose == "true", table.name
        else:
            expected = "NULLIF(current_setting('redoma.tenant_id'::text, true), ''::text)"
            assert f"({column.name})::text = {expected}" in whose, table.name
        assert policies.pop("platform")[:3] == ({f"{name}_platform", f"{name}_owner"}, "ALL", "true"), table.name
        auth: dict[str, object] = {"auth": ({f"{name}_auth"}, "SELECT", "true", None)}
        assert policies == (auth if grants[table.name][1] else {}), table.name
        assert await guarded.grants(table.name) == grants[table.name], table.name


async def check_roles(guarded: Guarded) -> None:
    """The roles can't log in, pass policies by, make roles or databases, own a table or pass for one another."""
    name = guarded.schema.name
    rows = await guarded.superuser.execute(
        text(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE :roles AND "
            "(rolcanlogin OR rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR "
            " EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid))"
        ),
        {"roles": f"{name}\\_%"},
    )
    assert list(rows) == []
    owned = text(
        "SELECT count(*) FROM pg_class WHERE pg_get_userbyid(relowner) IN "
        f"('{name}_app', '{name}_auth', '{name}_platform')"
    )
    assert await guarded.superuser.scalar(owned) == 0
    inherits = f"SELECT pg_has_role('redoma', '{name}_owner', 'USAGE')"
    assert await guarded.superuser.scalar(text(inherits)) is False


async def check_a_tenant_has_its_own_rows_only(guarded: Guarded) -> None:
    """Statements that forget the tenant, of each kind, on every table of tenants."""
    for table in guarded.schema.metadata.sorted_tables:
        column = guarded.schema.tenant_column(table)
        if column is None:
            continue
        app = (await guarded.grants(table.name))[0]
        async with guarded.database.transaction(Scope.of(ACME)) as session:
            rows = (await session.execute(select(table))).mappings().all()
        assert [row[column.name] for row in rows] == [ACME], table.name
        async with guarded.database.transaction(Scope.of("initech")) as session:
            assert (await session.execute(select(table))).all() == [], table.name
        with pytest.raises(DBAPIError, match=REFUSED):
            async with guarded.database.transaction(Scope.of("initech")) as session:
                await session.execute(insert(table).values(guarded.schema.row(table, GLOBEX)))
        if "U" in app:
            with pytest.raises(DBAPIError, match=REFUSED):
                async with guarded.database.transaction(Scope.of(ACME)) as session:
                    await session.execute(update(table).values({column.name: GLOBEX}))


async def check_changes_reach_no_other_tenants_rows(guarded: Guarded) -> None:
    """UPDATE and DELETE without a condition, on tables that others refer to last."""
    for table in reversed(guarded.schema.metadata.sorted_tables):
        app = (await guarded.grants(table.name))[0]
        same = update(table).values(guarded.schema.row(table, ACME))
        for letter, statement in (("U", same), ("D", delete(table))):
            if letter in app:
                async with guarded.database.transaction(Scope.of(ACME)) as session:
                    changed = await session.execute(statement)
                assert changed.rowcount == 1, table.name  # type: ignore[attr-defined]
            else:
                with pytest.raises(DBAPIError, match=REFUSED):
                    async with guarded.database.transaction(Scope.of(ACME)) as session:
                        await session.execute(statement)
        is_shared = guarded.schema.tenant_column(table) is None
        assert await guarded.count(table, GLOBEX) == (2 if is_shared else 1), table.name


async def check_auth_only_reads(guarded: Guarded, grants: dict[str, tuple[str, str, str]]) -> None:
    """Role.AUTH reads what a credential's lookup needs, of all tenants, and changes nothing."""
    for table in guarded.schema.metadata.sorted_tables:
        if grants[table.name][1]:
            async with guarded.database.transaction(AUTH) as session:
                assert len((await session.execute(select(table))).all()) == 2, table.name
        else:
            with pytest.raises(ProgrammingError, match=REFUSED):
                async with guarded.database.transaction(AUTH) as session:
                    await session.execute(select(table))
        for statement in (insert(table).values(guarded.schema.row(table, ACME)), delete(table)):
            with pytest.raises(ProgrammingError, match=REFUSED):
                async with guarded.database.transaction(AUTH) as session:
                    await session.execute(statement)


async def check_platform_sees_all(guarded: Guarded) -> None:
    """Role.PLATFORM sees every tenant's rows."""
    for table in guarded.schema.metadata.sorted_tables:
        async with guarded.database.transaction(PLATFORM) as session:
            assert len((await session.execute(select(table))).all()) == 2, table.name
