"""How long a site is not all there after one of its processes was killed or frozen."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from redoma_cli.local.home import Home
from redoma_cli.local.plan import pid_file
from redoma_cli.local.process import PidFile
from tests.bench.callers import POLL_S, Caller, callers, until_content
from tests.bench.findings import Findings, Plan, Table
from tests.bench.outage import Outage, outage_of
from tests.bench.site import running_site

# A fault that is not noticed at once may still come, such as of a connection that nobody used yet.
STEADY_S = 3.0
WELL_S = 120.0
KILLED, FROZEN = "killed", "frozen"
PROCESSES = ("gateway", "egress", "edge", "model", "provisioner", "private-provisioner", "chat", "tenant")
ENVOYS = ("gateway", "egress", "edge")
ABOUT = (
    "Each process of both sites is killed (SIGKILL), and each Envoy frozen (SIGSTOP), one at a time, while three "
    "callers call one call after the other, each given up after two seconds: for an answer of one token by the edge, "
    "for the private site by NetworkService, and for that one to be linked. Recovery is from when the first call "
    "failed to when the first one after it was answered; a dash is that none failed. Calls that failed once more "
    "after that have a column of their own, with how much later the last one did. The supervisor starts anew what is "
    "dead, and kills what has not answered it for ten seconds; nobody else helps."
)


HEADINGS = ("fault", "caller", "recovery, s", "longest, s", "failed calls", "failed again, s later")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is done to a process."""

    process: str
    what: str

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.process} {self.what}"


FAULTS = (*(Fault(name, KILLED) for name in PROCESSES), *(Fault(name, FROZEN) for name in ENVOYS))
# By fault, of each round: what each caller noticed, by its name.
Seen = Mapping[Fault, Sequence[Mapping[str, Outage | None]]]


async def run(plan: Plan) -> Findings:
    """Does each of the faults in each round."""
    faults = plan.pick(FAULTS, (Fault("gateway", KILLED), Fault("provisioner", KILLED), Fault("edge", FROZEN)))
    seen: dict[Fault, list[Mapping[str, Outage | None]]] = {fault: [] for fault in faults}
    with running_site(plan.model) as site:
        async with callers(site) as calling:
            for turn in range(plan.rounds):
                for fault in faults:
                    plan.tell(f"round {turn + 1} of {plan.rounds}, {fault.name}")
                    seen[fault].append(await _suffer(Home(site.site.home), fault, calling))
    return _findings(seen)


async def _suffer(home: Home, fault: Fault, calling: Sequence[Caller]) -> dict[str, Outage | None]:
    await until_content(calling, STEADY_S, WELL_S, time.monotonic())
    for caller in calling:
        caller.visits.clear()
    record = PidFile(pid_file(home, fault.process))
    victim = record.alive()
    if victim is None:
        raise RuntimeError(f"{fault.process} does not run")
    os.kill(victim.pid, signal.SIGKILL if fault.what == KILLED else signal.SIGSTOP)
    end = time.monotonic() + WELL_S
    while (successor := record.alive()) is None or successor == victim:
        if time.monotonic() > end:
            raise RuntimeError(f"{fault.process} is not started anew")
        await asyncio.sleep(POLL_S)
    await until_content(calling, STEADY_S, WELL_S, time.monotonic())
    return {caller.need.name: outage_of(caller.visits) for caller in calling}


def recovery_s(outages: Sequence[Outage | None]) -> float:
    """Gives the median recovery in seconds; a round without a failure counts as none at all."""
    return median(0.0 if outage is None else outage.recovery_s for outage in outages)


def _findings(seen: Seen) -> Findings:
    rows = tuple(
        (fault.name, name, *_cells([taken[name] for taken in rounds]))
        for fault, rounds in seen.items()
        for name in rounds[0]
    )
    data = {
        fault.name: [{name: outage and asdict(outage) for name, outage in taken.items()} for taken in rounds]
        for fault, rounds in seen.items()
    }
    return Findings("recovery", ABOUT, (Table("Recovery", HEADINGS, rows),), (), data)


def _cells(outages: Sequence[Outage | None]) -> tuple[str, ...]:
    met = [outage for outage in outages if outage is not None]
    if not met:
        return ("–", "", "", "")
    return (
        f"{recovery_s(outages):.2f}",
        f"{max(outage.recovery_s for outage in met):.2f}",
        f"{median(outage.failures if outage else 0 for outage in outages):.0f}",
        f"{max(outage.unsteady_s for outage in met):.2f}",
    )
