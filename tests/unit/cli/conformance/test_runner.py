"""The runner: what is made is taken away, what can't be told is no pass, and one check's trouble is not another's."""

import asyncio
import random
from dataclasses import dataclass, replace

import pytest

from redoma.tenant.v1.tenant_pb2 import ListTenantsRequest
from redoma_cli.conformance.caller import path_of
from redoma_cli.conformance.check import Check, Probes, Severity, Skipped, Unclear
from redoma_cli.conformance.edge import edge_at
from redoma_cli.conformance.lab import PREFIX, Lab
from redoma_cli.conformance.results import Outcome, Report
from redoma_cli.conformance.runner import Runner, clean
from redoma_cli.errors import CliError
from tests.unit.cli.conformance.double_site import DoubleSite
from tests.unit.cli.conformance.test_checks import SETTINGS, Silent
from tests.unit.cli.conformance.world import ADMIN_KEY, World


@dataclass
class Made:
    """A check made for a test, with a tenant of its own."""

    does: str
    id: str = "made"
    title: str = "A title"
    severity: Severity = Severity.HIGH
    why: str = "It matters."
    alone: bool = False

    async def run(self, lab: Lab, probes: Probes) -> None:
        await lab.tenant()
        probes.step("its only step")
        if self.does == "skips":
            raise Skipped("There is no such thing here.")
        if self.does == "finds and skips":
            probes.expect(False, "a probe", "good", f"bad, and {lab.admin.key}")
            raise Skipped("The rest is not here.")
        if self.does == "is unclear":
            raise Unclear("It can't be told.")
        if self.does == "breaks down":
            raise KeyError("usage")
        if self.does == "hangs":
            await asyncio.Event().wait()
        if self.does == "passes":
            probes.expect(True, "a probe", "good", "good")


def runner(site: DoubleSite, /, key: str = ADMIN_KEY, **settings: object) -> Runner:
    """A runner against the small deployment."""
    return Runner(edge_at(site.url), key, replace(SETTINGS, **settings), Silent(), random.Random(7))  # type: ignore[arg-type]


def run(site: DoubleSite, world: World, *checks: Check, **settings: object) -> Report:
    """Runs checks made for a test."""
    site.become(world)
    return asyncio.run(runner(site, **settings).run(checks))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("does", "outcome", "reason"),
    [
        ("passes", Outcome.PASSED, ""),
        ("skips", Outcome.SKIPPED, "There is no such thing here."),
        ("finds and skips", Outcome.FAILED, "The rest is not here."),
        ("is unclear", Outcome.ERROR, "It can't be told."),
        ("breaks down", Outcome.ERROR, "The check itself broke down at: its only step (KeyError: 'usage')."),
        ("hangs", Outcome.ERROR, "It did not end within 1 s; it was at: its only step."),
        ("tries nothing", Outcome.ERROR, "It tried nothing."),
    ],
)
def test_only_what_was_tried_and_held_passes(double: DoubleSite, does: str, outcome: Outcome, reason: str) -> None:
    world = World()
    report = run(double, world, Made(does), Made("passes", id="other"), check_timeout_s=1.0)
    made, other = report.results
    assert (made.outcome, made.reason) == (outcome, reason)
    assert other.outcome is Outcome.PASSED
    assert not world.tenants
    assert len(world.deleted) == 2
    assert ADMIN_KEY not in str(report)


def test_skipped_check_fails_a_strict_run_alone(double: DoubleSite) -> None:
    report = run(double, World(), Made("skips"), Made("passes", id="other"))
    assert report.conforms(strict=False)
    assert not report.conforms(strict=True)
    assert run(double, World(), Made("passes")).conforms(strict=True)


def test_kept_tenants_are_told_of(double: DoubleSite) -> None:
    world = World()
    report = run(double, world, Made("passes"), keep=True)
    assert list(report.left_tenants) == list(world.tenants) != []


def test_cancelled_run_deletes_its_tenants(double: DoubleSite) -> None:
    world = World()
    double.become(world)

    async def cancel() -> None:
        task = asyncio.create_task(runner(double).run((Made("hangs"), Made("hangs", id="other"))))
        while len(world.tenants) < 2:
            await asyncio.wait([task], timeout=0.05)
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(cancel(), 30))
    assert not world.tenants
    assert len(world.deleted) == 2


def test_tenants_of_killed_runs_are_cleaned_up_and_no_others(double: DoubleSite) -> None:
    world = World()
    run(double, world, Made("passes"), keep=True)
    other = next(iter(world.tenants.values()))
    for kept in ("acme", "conformance-adapter"):
        world.tenants[kept] = type(other)(name=f"tenants/{kept}", state=other.state)
    gone, left = asyncio.run(clean(edge_at(double.url), ADMIN_KEY))
    assert len(gone) == 1 and gone[0].startswith(PREFIX)
    assert not left
    assert list(world.tenants) == ["acme", "conformance-adapter"]


def test_key_that_is_no_operators_is_told_before_anything_is_made(double: DoubleSite) -> None:
    world = double.become(World())
    with pytest.raises(CliError, match="not an operator's") as caught:
        asyncio.run(runner(double, "rdm_00000000_wrong").run((Made("passes"),)))
    assert "--admin-key" in caught.value.mend
    assert not world.deleted


def test_edge_that_does_not_answer_is_told() -> None:
    nobody = Runner(edge_at("http://127.0.0.1:9"), ADMIN_KEY, SETTINGS, Silent(), random.Random(7))
    with pytest.raises(CliError, match="No edge answers"):
        asyncio.run(nobody.run((Made("passes"),)))


def test_request_names_its_method() -> None:
    assert path_of(ListTenantsRequest()) == "/redoma.tenant.v1.TenantService/ListTenants"
