"""What whoever runs the machine does with the provisioner's settings alone, whether or not the service runs."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version

import structlog

from redoma_kit.database import Database
from redoma_provisioner.drivers import open_link_probe
from redoma_provisioner.edge.bootstrap import bootstrap, bootstrap_secrets
from redoma_provisioner.errors import CannotStart
from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.schema import MIGRATIONS, SCHEMA
from redoma_provisioner.server import utc_now
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.store.grants import SqlGrantStore
from redoma_provisioner.trust.authority import load_authority
from redoma_provisioner.trust.grants import Grants, GrantSettings
from redoma_provisioner.trust.join_program import join
from redoma_provisioner.trust.keeper import TrustKeeper
from redoma_provisioner.trust.membership_files import MembershipFiles

ACTOR = "platform/machine"
LONGEST_TOKEN = 4_096


def link_grant(settings: ProvisionerSettings, site: str, rejoin: bool = False) -> str:
    """Makes a grant in the service's database, which may be in use, and gives its token with a line's end.

    Raises:
        CannotStart: The settings are not those of a public site, or the authority can't be used.
        DomainError: The site's id can't be used, or the site may not join.
    """
    return asyncio.run(_granted(settings, GrantSettings(site, rejoin=rejoin))) + "\n"


async def _granted(settings: ProvisionerSettings, wanted: GrantSettings) -> str:
    if settings.authority is None or settings.join is None:
        raise CannotStart('Grants are made with the settings of a public site: role = "public", authority and join.')
    own = settings.authority
    authority = load_authority(own.cert_file, own.key_file, own.certificate_lifetime_s, utc_now)
    database = Database(settings.database_url, structlog.get_logger("redoma.provisioner"), SCHEMA, connections=2)
    kind = DriverKind(settings.driver.kind)
    grants = Grants(SqlGrantStore(database), settings.join.address, authority.digest, kind, utc_now, lambda: None)
    try:
        await database.upgrade(MIGRATIONS)
        return (await grants.create(wanted, ACTOR))[1]
    finally:
        await database.close()


def joined(settings: ProvisionerSettings) -> str:
    """Joins with the token on standard input, printing a line of JSON for each change of a step.

    Raises:
        CannotStart: The settings are not those of a private site.
        OSError: The link file can't be read.
        SystemExit: It did not join; the last line says why.
    """
    token = sys.stdin.readline(LONGEST_TOKEN)
    resources = "" if settings.link_file is None else settings.link_file.read_text()
    status = asyncio.run(join(settings, token, version("redoma"), utc_now, _say, resources))
    if status:
        raise SystemExit(status)
    return ""


def link_problem(settings: ProvisionerSettings) -> str:
    """Gives why the gateway of this private site gets no tunnel, as JSON: `reason`, a word, and `message`, a sentence.

    It dials the public site once as the gateway does, whether or not that runs.

    Raises:
        CannotStart: The settings are not those of a private site, or it has not joined.
    """
    if settings.membership_dir is None:
        raise CannotStart("The private role needs the setting membership_dir.")
    kept = TrustKeeper(MembershipFiles(settings.membership_dir), utc_now).kept
    problem = asyncio.run(open_link_probe(settings, kept, utc_now).look(kept.link_address))
    return json.dumps(asdict(problem)) + "\n"


def printed_bootstrap(settings: ProvisionerSettings, proxy: str) -> str:
    """Gives what an Envoy of this site is started with, as JSON: `bootstrap`, and the file `secrets` beside it.

    Raises:
        CannotStart: The settings have no identity of it.
        OSError: This service's certificate can't be read.
    """
    parts = {"bootstrap": bootstrap(settings, proxy), "secrets": bootstrap_secrets(settings, proxy)}
    return json.dumps({name: json.loads(text) for name, text in parts.items()}, indent=1) + "\n"


def _say(change: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(dict(change)) + "\n")
    sys.stdout.flush()
