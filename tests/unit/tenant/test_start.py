"""What stops the service from starting is said in one sentence; what it prints holds no secret."""

import json
from pathlib import Path

import pytest
import structlog
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import Connection, text

from redoma_kit.database import Database, SchemaNotReady
from redoma_kit.identity import IdentityVerifier
from redoma_tenant.errors import CannotStart
from redoma_tenant.identity import IdentityMinter, Principal, load_signing_key
from redoma_tenant.process import run
from redoma_tenant.server import MIGRATIONS, utc_now
from redoma_tenant.store.schema import METADATA
from tests.conftest import TestPki


def database_in(folder: Path) -> Database:
    """Gives an empty database."""
    return Database(f"sqlite+aiosqlite:///{folder / 'tenant.db'}", structlog.get_logger())


async def test_the_migrations_make_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    database = database_in(tmp_path)
    await database.upgrade(MIGRATIONS)
    await database.upgrade(MIGRATIONS)

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, METADATA))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        indexes = await connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'index'"))
        assert "ix_api_keys_tenant_id_create_time_id" in set(indexes)
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
