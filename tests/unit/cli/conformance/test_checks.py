"""Each check passes on a sound deployment, and catches the defects that it is there for."""

import asyncio
import random

import pytest

from redoma.model.v1.engine_pb2 import Adapter
from redoma.tenant.v1.tenant_pb2 import Tenant
from redoma_cli.conformance.catalogue import all_checks, chosen
from redoma_cli.conformance.check import Check
from redoma_cli.conformance.edge import edge_at
from redoma_cli.conformance.results import CheckResult, Outcome, Report
from redoma_cli.conformance.runner import Runner
from redoma_cli.conformance.settings import Settings
from tests.unit.cli.conformance.double_site import DoubleSite
from tests.unit.cli.conformance.world import ADMIN_KEY, Defect, World

# Times that fit a deployment of this size; the promises are as they are.
SETTINGS = Settings(
    settle_s=3.0, answer_s=6.0, freed_s=1.5, revoke_s=0.4, revoke_margin_s=0.4, flood_streams=10, check_timeout_s=60.0
)
ADAPTERS = (
    Adapter(digest="sha256:aa", tenant="acme", name="Acme"),
    Adapter(digest="sha256:bb", tenant="conformance-adapter", name="Ours"),
)
CAUGHT_BY = {
    Defect.LEAKS_CONVERSATIONS: "tenant-isolation",
    Defect.LEAKS_TO_OTHER_KEYS: "tenant-isolation",
    Defect.TAKES_FOREIGN_PAGE_TOKENS: "tenant-isolation",
    Defect.TELLS_EXISTENCE: "tenant-isolation",
    Defect.LEAKS_USAGE: "tenant-isolation",
    Defect.SHARES_CACHE: "cache-probe",
    Defect.SHARES_CACHE_IN_SECRET: "cache-probe",
    Defect.SHARES_ADAPTERS: "adapter-contamination",
    Defect.FALLS_BACK_TO_BASE: "adapter-contamination",
    Defect.MIXES_ADAPTERS_IN_CACHE: "adapter-contamination",
    Defect.CHARGES_NOTHING_FOR_DROPS: "drop-and-charge",
    Defect.CHARGES_LESS: "drop-and-charge",
    Defect.BOOKS_ONE_SIDE: "drop-and-charge",
    Defect.STARVES_NEIGHBOURS: "noisy-neighbour",
    Defect.FAILS_NEIGHBOURS: "noisy-neighbour",
    Defect.CHECKS_NO_SCOPES: "forged-identity",
    Defect.OVERGRANTS: "quota-exactness",
    Defect.REFUSES_WITHOUT_WORDS: "quota-exactness",
    Defect.REFUSES_WITHOUT_HEADERS: "quota-exactness",
    Defect.LEAVES_RESERVATIONS: "quota-exactness",
    Defect.NEVER_ENDS: "stream-end",
    Defect.KEEPS_SLOTS: "stream-end",
    Defect.LEAVES_ANSWERS_STREAMING: "stream-end",
    Defect.KEEPS_STREAMS_OF_REVOKED_KEYS: "revocation",
    Defect.CACHES_KEYS: "revocation",
    Defect.REVOKES_TOO_MUCH: "revocation",
    Defect.ECHOES_KEYS: "key-leakage",
    Defect.ECHOES_KEYS_IN_BASE64: "key-leakage",
    Defect.ECHOES_BODIES: "key-leakage",
}


class Silent:
    """A watcher that watches nothing."""

    def began(self, check: Check) -> None:
        """A check begins."""

    def stepped(self, check: Check, step: str) -> None:
        """It goes on."""

    def ended(self, check: Check, result: CheckResult) -> None:
        """It is over."""


def run(site: DoubleSite, world: World, *ids: str, settings: Settings = SETTINGS) -> Report:
    """Runs checks against a deployment of that world."""
    site.become(world)
    runner = Runner(edge_at(site.url), ADMIN_KEY, settings, Silent(), random.Random(7))
    return asyncio.run(runner.run(chosen(list(ids))))


@pytest.mark.parametrize("check", [check.id for check in all_checks()])
def test_sound_deployment_passes(double: DoubleSite, check: str) -> None:
    world = World(adapters=ADAPTERS)
    report = run(double, world, check)
    (result,) = report.results
    assert result.outcome is Outcome.PASSED, (result.reason, result.findings)
    assert result.tried
    assert not world.tenants
    assert world.deleted
    assert not report.left_tenants


def test_tenant_kept_for_an_adapter_is_played_and_left_as_it_was(double: DoubleSite) -> None:
    world = World(adapters=ADAPTERS)
    world.tenants["conformance-adapter"] = Tenant(name="tenants/conformance-adapter", state=Tenant.STATE_ACTIVE)
    (result,) = run(double, world, "adapter-contamination").results
    assert (result.outcome, result.left_out) == (Outcome.PASSED, [])
    assert list(world.tenants) == ["conformance-adapter"]
    assert not world.tenants["conformance-adapter"].adapter
    assert all(key.revoked for key in world.keys.values() if key.tenant == "conformance-adapter")


@pytest.mark.parametrize("adapters", [(), ADAPTERS[:1]])
def test_what_no_adapter_allows_is_not_passed_in_silence(double: DoubleSite, adapters: tuple[Adapter, ...]) -> None:
    (result,) = run(double, World(adapters=adapters), "adapter-contamination").results
    assert (result.outcome is Outcome.SKIPPED and result.reason) or result.left_out


@pytest.mark.parametrize("defect", CAUGHT_BY)
def test_defect_is_caught(double: DoubleSite, defect: Defect) -> None:
    world = World(defect, adapters=ADAPTERS)
    report = run(double, world, CAUGHT_BY[defect])
    (result,) = report.results
    assert result.outcome is Outcome.FAILED, (result.reason, result.measured)
    assert all(finding.probe and finding.expected and finding.happened for finding in result.findings)
    assert not report.conforms(strict=False)
    told = str(result)
    assert ADMIN_KEY not in told
    assert not any(key in told for key in world.keys)


def test_edge_that_lets_identities_in_is_caught(careless_double: DoubleSite) -> None:
    report = run(careless_double, World(Defect.TRUSTS_INBOUND_IDENTITY), "forged-identity")
    (result,) = report.results
    assert result.outcome is Outcome.FAILED
    assert any("unsigned token" in finding.probe and "let in" in finding.happened for finding in result.findings)


def test_edge_that_keeps_deadlines_to_itself_is_caught(careless_double: DoubleSite) -> None:
    report = run(careless_double, World(), "stream-end")
    (result,) = report.results
    assert result.outcome is Outcome.FAILED
    assert [finding.probe for finding in result.findings] == ["an endless stream with a deadline of 2 s"]


def test_every_defect_is_caught_by_a_check_that_exists() -> None:
    assert set(CAUGHT_BY) | {Defect.TRUSTS_INBOUND_IDENTITY} == set(Defect)
    assert set(CAUGHT_BY.values()) == {check.id for check in all_checks()}
