"""What is done with a provisioner's settings alone, while nothing serves."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from redoma_kit.settings import TlsSettings
from redoma_provisioner.errors import CannotStart
from redoma_provisioner.machine import link_problem
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.trust.membership_files import MembershipFiles
from tests.fakes.trust_parties import make_authority
from tests.unit.provisioner.embedded.embedded_lab import free_port
from tests.unit.provisioner.trust.private_site import joined_set


def settings(folder: Path) -> ProvisionerSettings:
    """Those of a private site."""
    current = folder / "current"
    return ProvisionerSettings(
        role="private",
        database_url="sqlite+aiosqlite:////nowhere/provisioner.db",
        membership_dir=folder,
        jwks_file=current / "jwks.json",
        tls=TlsSettings(ca_file=current / "ca.crt", cert_file=current / "tls.crt", key_file=current / "tls.key"),
    )


def test_why_there_is_no_link_is_found_by_dialling_as_the_gateway(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "authority", lambda: datetime.now(UTC))
    files = MembershipFiles(tmp_path / "membership")
    files.prepare()
    address = f"127.0.0.1:{free_port()}"
    files.write(replace(joined_set(authority), link_address=address))
    problem = json.loads(link_problem(settings(files.directory)))
    assert problem["reason"] == "Refused"
    assert address in problem["message"]


def test_a_site_that_has_not_joined_has_no_link_to_probe(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="redoma van join"):
        link_problem(settings(tmp_path))
