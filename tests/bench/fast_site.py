"""A site's processes without their supervisor, with a model that costs next to nothing in the place of the real one."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from redoma_cli.local.demo import ensure_demo
from redoma_cli.local.home import Home
from redoma_cli.local.options import read_options
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.plan import ProcessSpec
from redoma_cli.local.private_site import DEFAULT_SITE
from redoma_cli.local.site import LocalSites
from redoma_cli.local.up import edge_ready
from redoma_kit.api_key import new_key
from tests.e2e.conftest import free_port
from tests.fakes.fast_model import STEP_VARIABLE

CHECKOUT = Path(__file__).parents[2]
READY_S = 60.0
END_S = 10.0
# No drafts and no cached prefixes, which are not what is measured, and all streams may be one tenant's.
MODEL_SETTINGS = {"STEP_TOKENS": 8_192, "MAX_WAITING_PER_TENANT": 256, "SPECULATION": "false", "PREFIX_CACHE": "false"}


@dataclass(frozen=True, slots=True)
class FastSite:
    """A running site.

    Attributes:
        home: Its home.
        authority: Its certificates and the key that signs identities.
        edge_port: Where the world calls.
        api_key: A key of the tenant `acme`.
        processes: By name; this one is `client`.
    """

    home: Home
    authority: DevelopmentAuthority
    edge_port: int
    api_key: str
    processes: Mapping[str, psutil.Process]

    def cpu_s(self) -> dict[str, float]:
        """Gives the processor time that each process has used, in seconds."""
        times = {name: process.cpu_times() for name, process in self.processes.items()}
        return {name: float(used.user + used.system) for name, used in times.items()}


@asynccontextmanager
async def fast_site(step_s: float, **model_settings: str) -> AsyncIterator[FastSite]:
    """Starts a site whose model takes `step_s` seconds for a step, makes the demo tenants, and ends it.

    `model_settings` are those of the model service that differ from MODEL_SETTINGS.
    """
    with tempfile.TemporaryDirectory(prefix="redoma-bench-", ignore_cleanup_errors=True) as folder:
        home = Home(Path(folder))
        home.create()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REDOMA_")}
        environment |= {"REDOMA_PORT": str(free_port()), "REDOMA_VAN_PORT": str(free_port())}
        own = MODEL_SETTINGS | {name.upper(): value for name, value in model_settings.items()}
        environment |= {f"REDOMA_MODEL_{name}": str(value) for name, value in own.items()}
        options = read_options(environment, home, CHECKOUT)
        authority, admin_key = DevelopmentAuthority(home.pki), new_key()
        sites = LocalSites(home, options, environment, authority, admin_key)
        processes: dict[str, psutil.Popen] = {}
        try:
            for spec in sites.public_specs():
                processes[spec.name] = _start(spec, home, step_s)
            await _wait_ready(options.port, "/healthz")
            await asyncio.to_thread(_join, sites)
            for spec in sites.private_specs(DEFAULT_SITE):
                processes[spec.name] = _start(spec, home, step_s)
            await _wait_ready(options.port, "/readyz")
            await asyncio.to_thread(ensure_demo, home, f"http://127.0.0.1:{options.port}", admin_key)
            api_key = json.loads(home.demo_file.read_text())["tenants"][0]["api_key"]
            yield FastSite(home, authority, options.port, api_key, {**processes, "client": psutil.Process()})
        finally:
            for process in processes.values():
                process.terminate()
            for process in psutil.wait_procs(list(processes.values()), END_S)[1]:
                process.kill()


def _join(sites: LocalSites) -> None:
    sites.write_join_settings()
    token = sites.public_provisioner().make_link_grant(DEFAULT_SITE, rejoin=False)
    sites.private_provisioner().join(token, lambda step: None)


def _start(spec: ProcessSpec, home: Home, step_s: float) -> psutil.Popen:
    argv, environment = list(spec.argv), dict(spec.env)
    if spec.name == "model":
        argv[1:3] = [*("-m", "tests.fakes.fast_model")]
        environment |= {STEP_VARIABLE: str(step_s), "PYTHONPATH": os.pathsep.join((str(CHECKOUT), *sys.path))}
    with (home.log / f"{spec.name}.log").open("wb") as log:
        return psutil.Popen(
            argv, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=spec.working_directory(home.run)
        )


async def _wait_ready(port: int, page: str) -> None:
    end = time.monotonic() + READY_S
    while not await asyncio.to_thread(edge_ready, port, page):
        if time.monotonic() > end:
            raise RuntimeError("the site does not become ready")
        await asyncio.sleep(0.1)
