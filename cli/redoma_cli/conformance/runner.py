"""Runs checks: some side by side, those that load would falsify one by one, each within its time."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from redoma.tenant.v1.tenant_pb2 import ListTenantsRequest, ListTenantsResponse
from redoma_cli.conformance.answer import OK
from redoma_cli.conformance.caller import Caller
from redoma_cli.conformance.check import Check, Finding, Probes, Skipped, Unclear
from redoma_cli.conformance.edge import Edge
from redoma_cli.conformance.http_client import NoAnswer
from redoma_cli.conformance.lab import THROW_AWAY, Lab, delete_tenant
from redoma_cli.conformance.pages import pages
from redoma_cli.conformance.results import CheckResult, Outcome, Report
from redoma_cli.conformance.secrecy import Redactor
from redoma_cli.conformance.settings import Settings
from redoma_cli.errors import MENDS_BY_REASON, CliError

CLEAN_UP_S = 30.0


class Watcher(Protocol):
    """Is told how a run goes on."""

    def began(self, check: Check) -> None:
        """A check begins."""

    def stepped(self, check: Check, step: str) -> None:
        """It goes on to its next step."""

    def ended(self, check: Check, result: CheckResult) -> None:
        """It is over."""


class Runner:
    """One run against one deployment."""

    def __init__(
        self,
        edge: Edge,
        admin_key: str,
        settings: Settings,
        watcher: Watcher,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._edge = edge
        self._admin_key = admin_key
        self._settings = settings
        self._watcher = watcher
        self._rng = rng
        self._clock = clock
        self._redactor = Redactor()
        self._redactor.hide(admin_key)
        self._left: list[str] = []

    async def run(self, checks: Sequence[Check]) -> Report:
        """Runs the checks. What they made is deleted, also when this is cancelled.

        Raises:
            CliError: The deployment does not answer, or the key is not an operator's.
        """
        began, start_time = self._clock(), datetime.now(UTC)
        admin = Caller(self._edge, self._admin_key)
        try:
            await greet(admin)
            results: dict[str, CheckResult] = {}
            room = asyncio.Semaphore(self._settings.parallel)

            async def one(check: Check) -> None:
                async with room:
                    results[check.id] = await self._check(admin, check)

            async with asyncio.TaskGroup() as group:
                for check in checks:
                    if not check.alone:
                        group.create_task(one(check))
            for check in checks:
                if check.alone:
                    await one(check)
        finally:
            await admin.close()
        ordered = [results[check.id] for check in checks]
        return Report(self._edge.url, start_time, self._clock() - began, ordered, tuple(self._left))

    @property
    def left_tenants(self) -> Sequence[str]:
        """Throw-away tenants that could not be deleted, or were to be kept."""
        return self._left

    async def _check(self, admin: Caller, check: Check) -> CheckResult:
        self._watcher.began(check)
        probes = Probes(lambda step: self._watcher.stepped(check, step))
        lab = Lab(self._edge, admin, self._settings, self._redactor, self._rng)
        began = self._clock()
        try:
            outcome, reason = await self._outcome(check, lab, probes)
        finally:
            # Ctrl-C ends the check, not this; a second one does.
            await asyncio.shield(asyncio.create_task(self._clean_up(lab)))
        result = self._result(check, outcome, reason, probes, self._clock() - began)
        self._watcher.ended(check, result)
        return result

    async def _outcome(self, check: Check, lab: Lab, probes: Probes) -> tuple[Outcome, str]:
        outcome, reason = await self._end_of(check, lab, probes)
        # What was found counts, also when the check came no further.
        if probes.findings:
            return Outcome.FAILED, reason
        if outcome is Outcome.PASSED and not probes.tried:
            return Outcome.ERROR, "It tried nothing."
        return outcome, reason

    async def _end_of(self, check: Check, lab: Lab, probes: Probes) -> tuple[Outcome, str]:
        where = "its beginning"
        try:
            async with asyncio.timeout(self._settings.check_timeout_s):
                await check.run(lab, probes)
        except Skipped as skipped:
            return Outcome.SKIPPED, str(skipped)
        except Unclear as unclear:
            return Outcome.ERROR, str(unclear)
        except TimeoutError:
            told = f"It did not end within {self._settings.check_timeout_s:.0f} s"
            return Outcome.ERROR, f"{told}; it was at: {probes.last_step or where}."
        except (NoAnswer, OSError) as error:
            return Outcome.ERROR, f"The edge did not answer at: {probes.last_step or where} ({error})."
        except Exception as error:
            # An answer of a shape that no check reckons with must not take the others' results along.
            told = f"{type(error).__name__}: {error}"
            return Outcome.ERROR, f"The check itself broke down at: {probes.last_step or where} ({told})."
        return Outcome.PASSED, ""

    async def _clean_up(self, lab: Lab) -> None:
        try:
            async with asyncio.timeout(CLEAN_UP_S):
                await lab.close(self._left.append)
        except TimeoutError:
            self._left += lab.tenants

    def _result(self, check: Check, outcome: Outcome, reason: str, probes: Probes, seconds: float) -> CheckResult:
        clean = self._redactor.clean
        findings = [
            replace(each, probe=clean(each.probe), expected=clean(each.expected), happened=clean(each.happened))
            for each in probes.findings
        ]
        return CheckResult(
            check.id,
            check.title,
            check.severity.value,
            check.why,
            outcome,
            clean(reason),
            _grouped(findings),
            list(dict.fromkeys(probes.left_out)),
            dict(probes.measured),
            probes.tried,
            seconds,
        )


def _grouped(findings: list[Finding]) -> list[Finding]:
    """Leaves out findings that say the same as another."""
    return list(dict.fromkeys(findings))


async def greet(admin: Caller) -> None:
    """Sees that the deployment answers and that the key is an operator's.

    Raises:
        CliError: It does not, or is not.
    """
    answer = await admin.ask(ListTenantsRequest(page_size=1), patient=True)
    if answer.code == OK:
        return
    if answer.code == "UNAVAILABLE" and not answer.reason:
        raise CliError(
            f"No edge answers at {admin.edge.url}.", "Start it with `redoma up`, or name another with --edge."
        )
    if answer.code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        raise CliError(
            f"The key is not an operator's: {answer.message or answer.label}.",
            "Pass the admin key with --admin-key or REDOMA_ADMIN_KEY; `redoma up` prints it.",
        )
    raise CliError(answer.message or answer.label, MENDS_BY_REASON.get(answer.reason, ""))


async def clean(edge: Edge, admin_key: str) -> tuple[list[str], list[str]]:
    """Deletes the throw-away tenants that killed runs left; gives the ids of those gone and of those left.

    Raises:
        CliError: The deployment does not answer, or the key is not an operator's.
        Unclear, Skipped: The tenants can't be listed.
    """
    admin = Caller(edge, admin_key)
    try:
        await greet(admin)
        gone: list[str] = []
        left: list[str] = []
        async for page in pages(admin, ListTenantsRequest(), ListTenantsResponse):
            for tenant in page.tenants:
                tenant_id = tenant.name.removeprefix("tenants/")
                if THROW_AWAY.fullmatch(tenant_id) and not tenant.HasField("delete_time"):
                    (gone if await delete_tenant(admin, tenant_id) else left).append(tenant_id)
        return gone, left
    finally:
        await admin.close()
