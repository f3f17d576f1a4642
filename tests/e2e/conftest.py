"""A whole site, started by `redoma up` as a person would, with a home and ports of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest

REDOMA = Path(sys.executable).with_name("redoma")
DEADLINE_S = 120


def wait_until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Polls `condition` until it gives something true, and gives that."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {deadline_s} s in vain for: {what}")


def free_port() -> int:
    """Gives a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Site:
    """A running site and what a person needs to use it."""

    home: Path
    env: dict[str, str]
    metrics_port: int
    edge: str = ""
    admin_key: str = ""
    keys: dict[str, str] = field(default_factory=dict)

    def redoma(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs the command line to its end."""
        result = subprocess.run(
            [REDOMA, *arguments], env=self.env, text=True, capture_output=True, timeout=300, check=False, **options
        )
        assert not check or result.returncode == 0, f"redoma {' '.join(arguments)}: {result.stdout}{result.stderr}"
        return result

    def up(self) -> subprocess.CompletedProcess[str]:
        """Brings the site up and reads demo.json."""
        result = self.redoma("up")
        demo = json.loads((self.home / "demo.json").read_text())
        self.edge, self.admin_key = demo["edge"], demo["admin_key"]
        self.keys = {tenant["id"]: tenant["api_key"] for tenant in demo["tenants"]}
        return result

    def processes(self) -> dict[str, int]:
        """Gives the pid of each process that `redoma status` shows running."""
        status = json.loads(self.redoma("status", "--json", check=False).stdout)
        return {entry["name"]: entry["pid"] for entry in status["processes"] if entry["pid"]}

    def openai(self, tenant: str = "acme", **options: Any) -> openai.OpenAI:
        """Gives the unmodified client of OpenAI."""
        return openai.OpenAI(
            base_url=f"{self.edge}/v1", **{"api_key": self.keys[tenant], "max_retries": 0, "timeout": 120.0, **options}
        )

    def channel(self) -> grpc.Channel:
        """Opens a plain gRPC channel to the edge."""
        return grpc.insecure_channel(self.edge.removeprefix("http://"))

    def bearer(self, tenant: str = "acme") -> tuple[tuple[str, str], ...]:
        """Gives call metadata with a tenant's key."""
        return (("authorization", f"Bearer {self.keys[tenant]}"),)

    def metric(self, name: str) -> float:
        """Reads a metric of the model service, summed over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as page:
            text = page.read().decode()
        values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.e+-]+)$", text, re.MULTILINE)
        assert values, f"the model service has no metric {name}"
        return sum(map(float, values))

    def ready(self) -> bool:
        """Asks /readyz."""
        try:
            with urllib.request.urlopen(f"{self.edge}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_ready(self) -> None:
        """Waits until /readyz says so."""
        wait_until(self.ready, "/readyz to answer 200")

    def kill(self, name: str, signum: int = signal.SIGKILL) -> int:
        """Sends a signal to one of the site's processes and gives its pid."""
        pid = self.processes()[name]
        os.kill(pid, signum)
        return pid


def site_environment(home: Path) -> dict[str, str]:
    """Gives the environment of a site in `home` with ports of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REDOMA_")}
    checkout = Path(__file__).parents[2]
    return {
        **inherited,
        "REDOMA_HOME": str(home),
        "REDOMA_PORT": str(free_port()),
        "REDOMA_VAN_PORT": str(free_port()),
        "REDOMA_MODEL": str(checkout / ".tools/models/SmolLM2-135M-Instruct.Q4_1.gguf"),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


@contextmanager
def running_site(home: Path) -> Iterator[Site]:
    """Brings up a site of its own, and takes it down in the end."""
    metrics_port = free_port()
    env = site_environment(home) | {
        "REDOMA_MODEL_METRICS__LISTEN": f"127.0.0.1:{metrics_port}",
        "REDOMA_TENANT_METRICS__LISTEN": f"127.0.0.1:{free_port()}",
        "REDOMA_CHAT_METRICS__LISTEN": f"127.0.0.1:{free_port()}",
    }
    running = Site(home, env, metrics_port)
    running.up()
    try:
        yield running
    finally:
        pids = running.processes()
        running.redoma("down", "--grace", "5")
        left = [name for name, pid in pids.items() if Path(f"/proc/{pid}").exists()]
        assert not left, f"`redoma down` left {left}"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site that end-to-end tests share. Tests that kill things leave it ready again."""
    with running_site(tmp_path_factory.mktemp("redoma")) as running:
        yield running
