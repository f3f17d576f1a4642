"""Two machines as docs/operations/two_machines.md has them: nothing but `redoma`, and a gateway that lets nobody in."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.network.conftest import make_or_skip
from tests.e2e.network.namespaces import PUBLIC, Network
from tests.e2e.network.processes import until
from tests.e2e.network.sites import ENVOY, WEIGHTS

REDOMA = Path(sys.executable).with_name("redoma")
SITE = "hospital-a"
VAN_PORT = 8443
COMMAND_TIMEOUT_S = 120
# A person's program, in few milliseconds.
ASK = (
    "import sys, urllib.request as web; call = web.Request(sys.argv[1] + '/v1/chat/completions',"
    ' b\'{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}\','
    " {'authorization': 'Bearer ' + sys.argv[2], 'content-type': 'application/json'});"
    " print(web.urlopen(call, timeout=20).read().decode())"
)


@dataclass(slots=True)
class Machine:
    """A machine of a person's, who types `redoma` on it.

    Attributes:
        network: All machines.
        namespace: Its own.
        home: Its REDOMA_HOME.
    """

    network: Network
    namespace: str
    home: Path

    def redoma(self, *arguments: str, typed: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs the command line to its end."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("REDOMA_")}
        env |= {"REDOMA_HOME": str(self.home), "REDOMA_MODEL": str(WEIGHTS), "NO_COLOR": "1", "COLUMNS": "200"}
        argv = self.network.inside(self.namespace, [str(REDOMA), *arguments])
        result = subprocess.run(
            argv, env=env, input=typed, text=True, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        told = f"redoma {' '.join(arguments)}: {result.stdout}{result.stderr}"
        assert "Traceback" not in told, told
        assert not check or result.returncode == 0, told
        return result

    def refusal(self, *arguments: str, typed: str = "") -> str:
        """Runs a command that must fail, and gives what it says."""
        result = self.redoma(*arguments, typed=typed, check=False)
        assert result.returncode == 1, result.stdout + result.stderr
        return result.stderr

    def listens(self) -> str:
        """Gives the ports that anybody listens on."""
        return self.network.run(self.namespace, "ss", "-H", "-l", "-n", "-t", "-u").stdout

    def state(self) -> dict[str, Any]:
        """Gives what the private site keeps of how it stands."""
        return dict(json.loads((self.home / "private" / "membership" / "state.json").read_text()))

    def kill_all(self) -> None:
        """Kills every process at once, as a power cut would."""
        files = sorted((self.home / "run").glob("*.pid"), key=lambda file: file.stem != "supervisor")
        for file in files:
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Machines:
    """Both machines, and the token that the private one joined with."""

    public: Machine
    private: Machine
    token: str

    def grant(self) -> str:
        """Gives a new token for the site."""
        return self.public.redoma("van", "grant", "--site", SITE).stdout.strip()

    def answers(self) -> bool:
        """Whether the model answers a person at the public machine."""
        demo = json.loads((self.public.home / "demo.json").read_text())
        argv = [sys.executable, "-c", ASK, demo["edge"], demo["tenants"][0]["api_key"]]
        answer = self.public.network.run(self.public.namespace, *argv, check=False)
        return answer.returncode == 0 and bool(json.loads(answer.stdout)["choices"][0]["message"]["content"])

    def is_linked(self) -> bool:
        """Whether the private machine says so."""
        return bool(self.private.state()["phase"] == "LINKED")


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """Both machines, joined by hand."""
    network = Network([SITE], mark="m", has_host=False)
    with ExitStack() as stack:
        stack.callback(network.down)
        make_or_skip(network)
        for file in (ENVOY, WEIGHTS):
            assert file.exists(), f"{file} is missing; `make test` installs it"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdm-", dir="/tmp")))
        public = Machine(network, network.public, folder / "p")
        private = Machine(network, network.site(SITE), folder / "s")
        for machine in (public, private):
            stack.callback(machine.kill_all)
        public.redoma("up", "--site", "public", "--van-address", f"{PUBLIC}:{VAN_PORT}")
        machines = Machines(public, private, public.redoma("van", "grant", "--site", SITE).stdout.strip())
        private.redoma("up", "--site", "private", "--join", "-", typed=machines.token)
        yield machines


def test_the_model_answers_at_the_public_machine_and_the_private_one_listens_nowhere(machines: Machines) -> None:
    assert machines.private.listens() == ""
    assert f":{VAN_PORT}" in machines.public.listens(), "this would see a listening port"
    assert machines.answers()
    assert f"{SITE}  Linked" in machines.public.redoma("van", "status").stdout
    assert "Linked" in machines.private.redoma("status").stdout
    for machine in (machines.public, machines.private):
        assert "✗" not in machine.redoma("doctor").stdout


def test_a_token_that_lets_nobody_in_says_why_and_leaves_the_link_alone(machines: Machines) -> None:
    stranger = Machine(machines.private.network, machines.private.namespace, machines.private.home.with_name("x"))
    used = stranger.refusal("up", "--site", "private", "--join", machines.token)
    assert f"The site {SITE} has joined with this token already" in used
    assert "redoma van grant" in used
    mistyped = machines.private.refusal("van", "join", f"{machines.token[:-1]}!")
    assert "incomplete or mistyped" in mistyped
    until(machines.is_linked, "the private machine says that it is linked")
    assert machines.answers()


def test_a_private_machine_that_lost_power_comes_back_without_a_token(machines: Machines) -> None:
    machines.private.kill_all()
    assert "does not run" in machines.private.redoma("van", "status", check=False).stdout
    machines.private.redoma("up")
    assert machines.is_linked()
    until(machines.answers, "the model answers")


def test_a_public_machine_that_was_stopped_is_linked_again_by_itself(machines: Machines) -> None:
    machines.public.redoma("down")
    until(lambda: not machines.is_linked(), "the private machine notices")
    until(lambda: machines.private.state()["error"] is not None, "the private machine looks why")
    assert f"Nobody listens at {PUBLIC}:{VAN_PORT}" in machines.private.redoma("van", "status", check=False).stdout
    machines.public.redoma("up")
    until(machines.is_linked, "the private machine links again")
    until(machines.answers, "the model answers")


def test_a_revoked_site_is_cut_off_is_told_so_and_joins_anew_after_it_was_forgotten(machines: Machines) -> None:
    machines.public.redoma("van", "revoke", SITE, "--yes")
    assert not machines.answers()
    until(lambda: machines.private.state()["error"] is not None, "the private machine looks why")
    assert "revoked" in machines.private.redoma("van", "status", check=False).stdout
    assert "delete the site first" in machines.public.refusal("van", "grant", "--site", SITE)
    machines.public.redoma("van", "delete", SITE, "--yes")
    machines.private.redoma("van", "join", "-", typed=machines.grant())
    until(machines.answers, "the model answers")
