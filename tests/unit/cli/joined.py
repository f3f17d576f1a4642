"""A private site that has joined, as its provisioner would leave it, and a stand-in for that provisioner's program."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from redoma_cli.local.home import Home
from redoma_cli.local.membership import SERVICES
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.plan import pid_file
from redoma_cli.local.process import PidFile, current_identity


def write_state(home: Home, phase: str, site: str = "private", **more: object) -> None:
    """Writes state.json as the private provisioner does."""
    content: dict[str, object] = {
        "phase": phase,
        "site": site,
        "driver": "embedded",
        "link_address": "127.0.0.1:8443",
        "trust_sequence": 1,
        "linked_since": "2026-01-02T03:04:05+00:00" if phase == "LINKED" else None,
        "certificate_expire_time": None,
        "steps": [{"title": "Read the token", "state": "done", "detail": ""}],
        "error": None,
        "updated_at": datetime.now(UTC).isoformat(),
    }
    home.private.create()
    (home.private.membership / "state.json").write_text(json.dumps(content | more))


def write_membership(home: Home, site: str = "private", age: timedelta = timedelta(), stranger: bool = False) -> Path:
    """Makes a membership under the authority in the home, or under another; gives its directory.

    `age` is how long ago its certificates, which last 397 days, were made.
    """
    home.private.create()
    directory = home.private.membership
    version = directory / "versions" / str(len(list(directory.glob("versions/*"))) + 1)
    made = home.root / "signing"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    if not stranger:
        for name in ("ca.key", "ca.crt"):
            shutil.copy(home.pki / name, made / name)
    now: Callable[[], datetime] = lambda: datetime.now(UTC) - age  # noqa: E731
    DevelopmentAuthority(made, now, dict.fromkeys(SERVICES, site)).ensure()
    version.mkdir(parents=True)
    for service in SERVICES:
        shutil.copytree(made / service, version / service)
    shutil.copy(made / "ca.crt", version / "authorities.pem")
    (version / "jwks.json").write_text('{"keys": []}')
    current = directory / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(version.relative_to(directory))
    return directory


def run_provisioner(home: Home) -> None:
    """Makes the private site's provisioner run, as far as the home says; it is this process."""
    PidFile(pid_file(home, "private-provisioner")).write(current_identity(), "one")
