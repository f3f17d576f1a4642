"""What is kept of the network, on each kind of database."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import structlog
from sqlalchemy import insert

from redoma_kit.database import PLATFORM, Database
from redoma_provisioner.network.site import Sighting, SiteState
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.store.connectors import SqlConnectorStore
from redoma_provisioner.store.schema import CERTIFICATES
from redoma_provisioner.store.sites import SqlSiteStore
from tests.fakes.memory_network import START, a_site, exposed
from tests.fakes.postgres import BACKENDS, PostgresServer

DAY = timedelta(days=1)
SITE = "hospital-a"


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path}/provisioner.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_migrated(SCHEMA, MIGRATIONS)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """An empty database."""
    database = Database(url, structlog.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS)
    yield database
    await database.close()


async def certify(
    database: Database,
    number: int,
    service: str = "gateway",
    days: int = 30,
    retire_time: datetime | None = None,
    revoke_time: datetime | None = None,
) -> str:
    """Adds a certificate of the site and gives its fingerprint."""
    row = {
        "serial": f"{number:x}",
        "site_id": SITE,
        "service": service,
        "fingerprint": f"{number:064x}",
        "issue_time": START - DAY,
        "expire_time": START + days * DAY,
        "retire_time": retire_time,
        "revoke_time": revoke_time,
    }
    async with database.transaction(PLATFORM) as session:
        await session.execute(insert(CERTIFICATES).values(row))
    return str(row["fingerprint"])


async def test_only_certificates_that_count_are_admitted(database: Database) -> None:
    store = SqlSiteStore(database)
    await store.add_missing(a_site(SITE))
    good = await certify(database, 1)
    newer = await certify(database, 2, days=60)
    retiring = await certify(database, 3, retire_time=START + DAY)
    await certify(database, 4, retire_time=START)
    await certify(database, 5, revoke_time=START)
    await certify(database, 6, days=0)
    await certify(database, 7, service="model", days=20)
    known = (await store.read_network(START)).certificates[SITE]
    assert known.gateway == tuple(sorted((good, newer, retiring)))
    assert known.expire_time == START + 20 * DAY, "the model's runs out first, the gateway's newest last"


async def test_a_service_whose_certificates_have_all_expired_is_known(database: Database) -> None:
    store = SqlSiteStore(database)
    await store.add_missing(a_site(SITE))
    await certify(database, 1)
    await certify(database, 2, service="provisioner", days=-2)
    await certify(database, 3, service="provisioner", days=-1)
    known = (await store.read_network(START)).certificates[SITE]
    assert known.expire_time == START - DAY


async def test_what_a_site_exposes_takes_the_place_of_what_it_did(database: Database) -> None:
    sites, connectors = SqlSiteStore(database), SqlConnectorStore(database)
    for site in (SITE, "hospital-b"):
        await sites.add_missing(a_site(site))
        await connectors.replace_connectors(site, exposed(site, 3))
    await connectors.replace_connectors(SITE, exposed(SITE, 1))
    kept = await sites.read_network(START)
    assert kept.connectors == (*exposed(SITE, 1), *exposed("hospital-b", 3))
    await connectors.replace_connectors(SITE, ())
    assert (await sites.read_network(START)).connectors == exposed("hospital-b", 3)


@pytest.mark.parametrize("state", [SiteState.REVOKED, SiteState.INVITED, None])
async def test_who_is_no_member_leaves_no_connectors(database: Database, state: SiteState | None) -> None:
    sites = SqlSiteStore(database)
    if state is not None:
        await sites.add_missing(a_site(SITE, state))
    await SqlConnectorStore(database).replace_connectors(SITE, exposed(SITE))
    assert (await sites.read_network(START)).connectors == ()


async def test_a_site_is_changed_from_the_version_that_was_read_only(database: Database) -> None:
    store = SqlSiteStore(database)
    site = a_site(SITE)
    await store.add_missing(site)
    await store.add_missing(a_site(SITE, SiteState.REVOKED))
    changed = type(site)(site.id, "Hospital A", site.state, site.driver, 3, 2, site.create_time)
    kept = await store.change_site(changed)
    assert kept is not None and (kept.display_name, kept.priority, kept.version) == ("Hospital A", 3, 2)
    assert kept.join_time == site.join_time, "what people do not set stays"
    assert await store.change_site(changed) is None


async def test_sightings_are_written_together_and_only_of_those_that_are_there(database: Database) -> None:
    store = SqlSiteStore(database)
    for site in (SITE, "hospital-b"):
        await store.add_missing(a_site(site))
    await store.note_sightings([])
    await store.note_sightings([Sighting(site, START + DAY, 7) for site in (SITE, "hospital-b", "nobody")])
    kept = (await store.read_network(START)).sites
    assert [(one.id, one.last_seen_time, one.trust_sequence) for one in kept] == [
        (SITE, START + DAY, 7),
        ("hospital-b", START + DAY, 7),
    ]
