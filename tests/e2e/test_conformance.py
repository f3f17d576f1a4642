"""`redoma conformance` passes on a site as `redoma up` starts it."""

import json
import subprocess
from xml.etree import ElementTree

import pytest

from redoma_cli.conformance.catalogue import all_checks
from tests.e2e.conftest import REDOMA, Site

# Nothing on this site has an adapter; all else must be tried.
SKIPPED = {"adapter-contamination"}


@pytest.mark.timeout(960)
def test_site_conforms(site: Site) -> None:
    report_file = site.home / "conformance.xml"
    # The machine of the tests is shared: its noise is no neighbour's.
    arguments = ("--json", "--junit", str(report_file), "--ttft-factor", "8", "--timeout", "400")
    result = subprocess.run(
        [REDOMA, "conformance", *arguments], env=site.env, text=True, capture_output=True, timeout=900, check=False
    )
    report = json.loads(result.stdout)
    found = {check["id"]: check["findings"] or check["reason"] for check in report["checks"]}
    outcomes = {check["id"]: check["outcome"] for check in report["checks"]}
    expected = {check.id: "skipped" if check.id in SKIPPED else "passed" for check in all_checks()}
    assert outcomes == expected, {name: found[name] for name, outcome in outcomes.items() if outcome != expected[name]}
    assert result.returncode == 0
    assert report["left_tenants"] == []
    assert site.admin_key not in result.stdout + result.stderr
    assert len(ElementTree.parse(report_file).findall(".//testcase")) == len(expected)
    listed = json.loads(site.redoma("tenant", "list", "--json").stdout)
    left = [each["name"] for each in listed if "conformance-" in each["name"] and "delete_time" not in each]
    assert not left
