"""What stops the service from starting is said in one sentence; what it prints holds no secret."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import Connection, inspect, text

from redoma_kit.database import PLATFORM, Database, SchemaNotReady
from redoma_kit.identity import IdentityVerifier
from redoma_tenant.errors import CannotStart
from redoma_tenant.identity import IdentityMinter, Principal, load_signing_key
from redoma_tenant.process import run
from redoma_tenant.server import MIGRATIONS, SCHEMA, utc_now
from redoma_tenant.settings import TenantSettings
from redoma_tenant.store.api_keys import SqlApiKeyStore
from redoma_tenant.store.schema import METADATA
from redoma_tenant.store.sign_in import SqlSignInStore
from redoma_tenant.store.tenants import SqlTenantStore
from tests.conftest import TestPki
from tests.fakes.former_release import fill


def database_in(folder: Path) -> Database:
    """Gives an empty database."""
    return Database(f"sqlite+aiosqlite:///{folder / 'tenant.db'}", structlog.get_logger())


async def test_the_migrations_make_the_tables_that_the_code_expects(database_url: str) -> None:
    database = Database(database_url, structlog.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS)
    await database.upgrade(MIGRATIONS)

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        indexes = {index["name"] for index in inspect(connection).get_indexes("api_keys")}
        assert "ix_api_keys_tenant_id_create_time_id" in indexes
        return list(compare_metadata(context, METADATA))

    async with database.transaction(PLATFORM) as session:
        assert await (await session.connection()).run_sync(differences) == []
    await database.close()


async def test_what_a_former_release_kept_is_still_there(database_url: str) -> None:
    """Of the release before tenancy: a tenant and a key, read by the stores of this one."""
    database = Database(database_url, structlog.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS, "0001")
    made = datetime(2026, 10, 1, tzinfo=UTC)
    checks = {"max_input_tokens": 9, "blocked_patterns": []}
    tenant = {"id": "acme", "display_name": "Acme", "state": "DISABLED", "weight": 7, "content_checks": checks}
    key = {"id": "k1", "tenant_id": "acme", "display_name": "one", "prefix": "rdm_x7f2k9qa", "digest": "d" * 64}
    times: dict[str, object] = {"create_time": made, "expire_time": None, "last_use_time": made, "revoke_time": None}
    rows = {"tenants": [tenant | {"create_time": made}], "api_keys": [key | times | {"scopes": ["generate"]}]}
    await fill(database_url, SCHEMA, rows)
    await database.upgrade(MIGRATIONS)
    kept = await SqlTenantStore(database).find_tenant("acme")
    assert kept is not None
    assert (kept.profile.display_name, kept.state.value, kept.weight, kept.update_time) == ("Acme", "DISABLED", 7, made)
    (listed,) = await SqlApiKeyStore(database).list_api_keys("acme", None, 10)
    assert (listed.id, listed.display_name, listed.create_time, listed.last_use_time) == ("k1", "one", made, made)
    found = await SqlSignInStore(database).find_key("rdm_x7f2k9qa")
    assert found is not None
    assert (found.digest, found.scopes) == ("d" * 64, ("generate",))
    await database.close()


async def test_a_lookup_uses_an_index(tmp_path: Path) -> None:
    database = database_in(tmp_path)
    await database.upgrade(MIGRATIONS)
    query = "SELECT * FROM api_keys JOIN tenants ON tenants.id = tenant_id WHERE prefix = 'rdm_x7f2k9qa'"
    async with database.engine.connect() as connection:
        plan = [row.detail for row in await connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
    await database.close()
    assert len(plan) == 2
    assert all(step.startswith("SEARCH") for step in plan)


async def test_a_database_that_cant_be_opened_stops_the_start(tmp_path: Path) -> None:
    database = database_in(tmp_path / "missing")
    with pytest.raises(
        SchemaNotReady, match=r"tenant\.db can't be brought up to date: unable to open database file\.$"
    ):
        await database.upgrade(MIGRATIONS)
    await database.close()


async def test_a_database_of_a_newer_release_stops_the_start(tmp_path: Path) -> None:
    database = database_in(tmp_path)
    await database.upgrade(MIGRATIONS)
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaNotReady, match="9999"):
        await database.upgrade(MIGRATIONS)
    await database.close()


def test_the_signing_key_is_known_to_verifiers_by_its_thumbprint(pki: TestPki) -> None:
    key = load_signing_key(pki.authority.signing_key, pki.jwks_file)
    principal = Principal("tenants/acme/apiKeys/1", "acme", frozenset({"generate"}), 100)
    token = IdentityMinter(key, utc_now).mint(principal, frozenset({"generate"}), "/a.B/C", ("chat", "model"))
    identity = IdentityVerifier(pki.jwks_file, "model").verify(token)
    assert (identity.principal, identity.tenant, identity.method) == (principal.name, "acme", "/a.B/C")


@pytest.mark.parametrize("kind", ["missing", "garbage", "another algorithm", "not in the key set"])
def test_a_signing_key_that_nobody_could_verify_stops_the_start(pki: TestPki, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "signing.key"
    if kind == "garbage":
        file.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    elif kind != "missing":
        key = generate_private_key(SECP256R1()) if kind == "another algorithm" else Ed25519PrivateKey.generate()
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(CannotStart, match=r"signing\.key"):
        load_signing_key(file, pki.jwks_file)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"keys": [{}]}', '{"keys": 1}'])
def test_a_key_set_that_cant_be_read_stops_the_start(pki: TestPki, tmp_path: Path, content: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(content)
    with pytest.raises(CannotStart, match="key set"):
        load_signing_key(pki.authority.signing_key, file)


def test_print_config_hides_the_databases_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tenant.toml"
    config.write_text(
        'jwks_file = "j"\nsigning_key_file = "s"\ndatabase_url = "postgresql+asyncpg://redoma:hunter2@db/redoma"\n'
        '[tls]\nca_file = "a"\ncert_file = "b"\nkey_file = "c"\n'
    )
    monkeypatch.setattr("sys.argv", ["redoma-tenant", "--config", str(config), "--print-config"])
    with pytest.raises(SystemExit) as raised:
        run()
    assert raised.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["database_url"] == "postgresql+asyncpg://redoma:***@db/redoma"
    assert printed["bootstrap_admin_key_hash_file"] is None


def test_the_roles_of_postgresql_can_be_printed_for_an_administrator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tenant.toml"
    config.write_text(
        'jwks_file = "j"\nsigning_key_file = "s"\ndatabase_url = "postgresql://redoma:hunter2@db/main"\n'
        '[tls]\nca_file = "a"\ncert_file = "b"\nkey_file = "c"\n'
    )
    monkeypatch.setattr("sys.argv", ["redoma-tenant", "--config", str(config), "--print-database-roles"])
    with pytest.raises(SystemExit) as raised:
        run()
    assert raised.value.code == 0
    printed = capsys.readouterr().out
    assert "in the database main" in printed
    assert "CREATE SCHEMA redoma_tenant AUTHORIZATION redoma_tenant_owner;" in printed
    assert "hunter2" not in printed


@pytest.mark.parametrize("named", ["egress", "provisioner"])
def test_an_egress_without_who_lists_the_models_is_a_wrong_setting(named: str, pki: TestPki, tmp_path: Path) -> None:
    upstream = {"target": "127.0.0.1:1", "server_name": f"{named}.public.redoma"}
    values = {
        "tls": pki.tls("public", "tenant"),
        "jwks_file": pki.jwks_file,
        "database_url": "sqlite+aiosqlite:///none",
        "signing_key_file": tmp_path / "none",
    }
    with pytest.raises(ValueError, match="egress and provisioner go together"):
        TenantSettings(**values, **{named: upstream})
