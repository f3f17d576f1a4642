"""Two sites linked over Skupper's driver for system sites, with stand-ins for its CLI, routers and system controller.

Everything of Redoma is real, from `redoma up` to the model; no connection passes a router of Skupper's.
"""

import contextlib
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import Site, site_environment, wait_until
from tests.fakes.skupper_cli import WORLD, Tree, World, mapping, name_of, runs

CHECKOUT = Path(__file__).parents[3]
DRIVER = "skupper-system"
NAME = "hospital-a"
NAMESPACE = "redoma"
HOST = "127.0.0.1"


@dataclass(slots=True)
class Sites:
    """A public site and a private one, as two machines would have them."""

    root: Path
    public: Site
    private: Site

    def tree(self, site: str) -> Tree:
        """Gives the files of Skupper's site."""
        world = World(self.root)
        return Tree(self.root / site, NAMESPACE, world.control)

    def skupper(self, site: str, *words: str) -> str:
        """Runs a command of the manual as a person would."""
        argv = ["skupper", *words, "-n", NAMESPACE, "-p", "podman"]
        env = {"PATH": self.public.env["PATH"], WORLD: str(self.root), "XDG_DATA_HOME": str(self.root / site)}
        return subprocess.run(argv, env=env, check=True, capture_output=True, text=True, timeout=30).stdout

    def answers(self) -> bool:
        """Tells whether a call is answered within moments."""
        with contextlib.suppress(openai.OpenAIError):
            return bool(say(self.public, "Say yes.", timeout_s=3.0))
        return False


@dataclass(slots=True)
class Answer:
    """A long answer that is read in the background."""

    site: Site
    pieces: int = 0
    error: BaseException | None = None
    ended_at: float | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for _ in self.site.openai().chat.completions.create(
                model="",
                messages=[{"role": "user", "content": "Tell a very long story."}],
                max_tokens=900,
                stream=True,
                extra_body={"ignore_eos": True},
            ):
                self.pieces += 1
        except Exception as error:
            self.error = error
        self.ended_at = time.monotonic()

    def grows(self) -> None:
        """Waits until it has another piece."""
        before = self.pieces
        wait_until(lambda: self.pieces > before or self.ended_at, "another piece", 20)
        assert self.ended_at is None, self.error


def say(site: Site, words: str, timeout_s: float = 60.0) -> str:
    """Has a model answer."""
    answer = site.openai(timeout=timeout_s).chat.completions.create(
        model="", messages=[{"role": "user", "content": words}], max_tokens=4
    )
    return str(answer.choices[0].message.content)


def site(root: Path, name: str, programs: Path) -> Site:
    """Prepares a machine with Skupper's stand-ins."""
    home = root / f"{name}-home"
    env = site_environment(home) | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        WORLD: str(root),
        "REDOMA_SKUPPER_DATA_HOME": str(root / name / "skupper"),
        "REDOMA_MODEL_THREADS": "1",
    }
    return Site(home, env, 0)


def write_program(folder: Path) -> None:
    """Writes a `skupper` that is the stand-in."""
    folder.mkdir()
    program = folder / "skupper"
    words = shlex.join([sys.executable, "-m", "tests.fakes.skupper_cli"])
    program.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(CHECKOUT))} exec {words} "$@"\n')
    program.chmod(0o755)


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    """Both sites, joined by the commands in the manual."""
    with ExitStack() as stack:
        # Paths of Unix sockets are short.
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdm-", dir="/tmp")))
        World(root).control.put(forwards=True)
        write_program(root / "bin")
        found = Sites(root, site(root, "public", root / "bin"), site(root, NAME, root / "bin"))
        for name in ("public", NAME):
            stack.callback(kill_router, found.tree(name))
            stack.enter_context(system_controller(root, name))
        for one in (found.public, found.private):
            stack.callback(one.redoma, "down", "--grace", "1", check=False)
        public = found.public
        address = f"{HOST}:{public.env['REDOMA_VAN_PORT']}"
        public.redoma("up", "--site", "public", "--driver", DRIVER, "--van-address", address)
        demo = json.loads((public.home / "demo.json").read_text())
        public.edge, public.admin_key = demo["edge"], demo["admin_key"]
        public.keys = {tenant["id"]: tenant["api_key"] for tenant in demo["tenants"]}
        granted = public.redoma("van", "grant", "--site", NAME, "--local")
        token = granted.stdout.strip()
        assert f"redoma up --site private --driver {DRIVER} --join {token}" in granted.stderr
        joined = found.private.redoma("up", "--site", "private", "--driver", DRIVER, "--join", "-", input=token)
        assert "Skupper prepares a link" in joined.stderr
        wait_until(public.ready, "a model answers", 30)
        yield found


@contextlib.contextmanager
def system_controller(root: Path, name: str) -> Iterator[None]:
    """Runs a stand-in for Skupper's system controller, of the kind that takes up what is written."""
    words = [sys.executable, "-m", "tests.fakes.skupper_router", "--controller", str(root), str(root / name), NAMESPACE]
    with subprocess.Popen(words, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}) as process:
        try:
            yield
        finally:
            process.kill()


def kill_router(tree: Tree) -> None:
    """Kills a router, if it runs."""
    if runs(tree.router_pid()):
        os.kill(tree.router_pid(), signal.SIGKILL)


def test_answers_come_through_and_no_gateway_runs(sites: Sites) -> None:
    assert say(sites.public, "Why is the sky blue?")
    assert set(sites.private.processes()) == {"model", "private-provisioner", "supervisor"}
    told = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    listening = {line.split()[3].replace("[::ffff:127.0.0.1]", "127.0.0.1") for line in told.splitlines()}
    ports = json.loads((sites.private.home / "private/config/ports.json").read_text())
    assert {f"127.0.0.1:{port}" for port in ports.values()} <= listening


def test_what_is_said_of_a_link_without_a_gateway_makes_sense(sites: Sites) -> None:
    for one in (sites.public, sites.private):
        for command in ("status", "doctor"):
            said = one.redoma(command, check=command == "status").stdout
            assert "gateway" not in said
            assert NAME in said
    assert "listener hospital-a.model-0 at 127.0.0.1:" in sites.public.redoma("van", "status").stdout
    assert f"{NAME}  Linked" in sites.private.redoma("van", "status").stdout


def test_next_up_needs_no_options(sites: Sites) -> None:
    assert f"Site {NAME} runs" in sites.private.redoma("up").stdout
    assert "gateway" not in sites.private.processes()


def test_new_certificates_break_no_answer(sites: Sites) -> None:
    certificate = sites.private.home / "private/membership/current/model/tls.crt"
    before = certificate.read_bytes()
    answer = Answer(sites.public)
    answer.grows()
    sites.public.redoma("van", "rotate", NAME)
    assert certificate.read_bytes() != before
    answer.grows()
    assert sites.answers()


@pytest.mark.parametrize("name", [NAME, "public"])
def test_killed_router_is_told_of_and_calls_come_back_with_it(sites: Sites, name: str) -> None:
    answer = Answer(sites.public)
    answer.grows()
    kill_router(sites.tree(name))
    wait_until(lambda: answer.ended_at, "what ran over it ends", 10)
    wait_until(lambda: not sites.public.ready(), "no model is reached", 10)
    told = wait_until(
        lambda: next((line for line in _unlinked(sites, name).splitlines() if "router" in line), ""), "why", 20
    )
    assert "router" in told
    sites.skupper(name, "system", "reload")
    wait_until(sites.answers, "calls get through", 20)


def _unlinked(sites: Sites, name: str) -> str:
    site = sites.public if name == "public" else sites.private
    return site.redoma("van", "status", check=False).stdout


def test_site_joins_anew_with_a_link_file(sites: Sites) -> None:
    (access,) = sites.tree("public").runtime("RouterAccess")
    file = sites.root / "link.yaml"
    file.write_text(sites.skupper("public", "link", "generate", "--name", f"link-{name_of(access)}", "--host", HOST))
    granted = sites.public.redoma("van", "grant", "--site", NAME, "--rejoin", "--local")
    joined = sites.private.redoma("van", "join", granted.stdout.strip(), "--link-file", str(file))
    assert "holds a private key" in joined.stderr
    (link,) = sites.tree(NAME).runtime("Link")
    digest = hashlib.sha256(file.read_text().strip().encode()).hexdigest()
    assert mapping(mapping(link, "metadata"), "annotations")["redoma.io/source"] == digest
    wait_until(sites.answers, "calls get through", 20)


def test_revoked_site_is_cut_within_two_seconds(sites: Sites) -> None:
    answer = Answer(sites.public)
    answer.grows()
    sites.public.redoma("van", "revoke", NAME, "--yes")
    began = time.monotonic()
    wait_until(lambda: answer.ended_at, "the answer ends", 5)
    assert answer.ended_at is not None and answer.ended_at - began < 2.0
    assert answer.error is not None
    assert not sites.answers()
    wait_until(lambda: not sites.tree("public").runtime("RouterAccess"), "its way in is gone", 20)
    wait_until(lambda: not World(sites.root).peers(sites.tree("public")), "its link is cut", 20)
