"""Builds kube-apiserver, etcd and kube-controller-manager from released Go modules, once, and prints where they lie.

`make test-cluster` runs it. What is built is pinned, with hashes, by apiserver/go.mod and go.sum; modules come from
wherever GOPROXY says. The folder is named after a digest of both, so a second run finds it there.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

MODULE = Path(__file__).parent / "apiserver"
ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements" / "go.txt"
OLDEST_GO = (1, 26)
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
}
# Small, and needed in any case: whether it comes tells whether the others would.
SMALL_MODULE = "sigs.k8s.io/yaml"
PROBE_S = 60.0
TELL_EVERY_S = 15.0
LEAST_FREE_GIB = 8
UNREACHABLE = re.compile(
    r"dial tcp|no such host|i/o timeout|connection (refused|reset)|network is unreachable|TLS handshake timeout|"
    r"lookup disabled by GOPROXY=off|proxyconnect|Proxy Authentication|"
    r"(403|404|407|410|50\d) [A-Z]"
)


class Skipped(Exception):
    """What is needed can't be had on this machine; the message says what, in one line."""


def say(text: str) -> None:
    """Tells a person how far it is; standard output is for the folder alone."""
    print(f"==> {text}", file=sys.stderr, flush=True)


def find_go(tools: Path) -> Path:
    """Gives the machine's Go, or one installed from requirements/go.txt.

    Raises:
        Skipped: Neither is to be had.
    """
    installed = tools / "venv-go" / "bin" / "go"
    for candidate in (os.environ.get("GO", "go"), str(installed)):
        found = shutil.which(candidate)
        if found and _version(found) >= OLDEST_GO:
            return Path(found)
    wanted = ".".join(map(str, OLDEST_GO))
    say(f"This machine has no Go of {wanted} or newer; installing it into {installed.parents[1]} (requirements/go.txt)")
    environment = installed.parents[1]
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, stdout=sys.stderr)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    done = subprocess.run(
        [*pip, "--quiet", "--require-hashes", "-r", str(REQUIREMENTS)], capture_output=True, text=True
    )
    if "HASHES" in done.stderr:
        raise SystemExit(f"error: Go is not what {REQUIREMENTS.name} pins: {' '.join(done.stderr.split())[:600]}")
    if done.returncode or not installed.exists() or _version(str(installed)) < OLDEST_GO:
        why = (done.stderr.strip().splitlines() or ["the package holds none"])[-1]
        raise Skipped(f"there is no Go of {wanted} or newer, and it could not be installed ({why})")
    return installed


def _version(go: str) -> tuple[int, int]:
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, env=_environment(Path("/"), 1))
    found = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if done.returncode == 0 and found else (0, 0)


def _environment(caches: Path, jobs: int) -> Mapping[str, str]:
    return {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": f"-p={jobs} -mod=readonly -buildvcs=false -modcacherw",
        "GOMODCACHE": str(caches / "mod"),
        "GOCACHE": str(caches / "build"),
    }


def check_reachable(go: Path, environment: Mapping[str, str]) -> None:
    """Fetches one small module.

    Raises:
        Skipped: Nothing that GOPROXY names answers.
        SystemExit: It answers with something else than what is pinned.
    """
    command = [str(go), "mod", "download", SMALL_MODULE]
    try:
        done = subprocess.run(command, cwd=MODULE, env=environment, capture_output=True, text=True, timeout=PROBE_S)
    except subprocess.TimeoutExpired:
        raise Skipped(f"no Go module proxy answers within {PROBE_S:.0f} s") from None
    if done.returncode == 0:
        return
    why = " ".join(done.stderr.split()) or "without a word"
    if UNREACHABLE.search(why):
        raise Skipped(f"no Go module proxy answers ({why[-160:]})")
    raise SystemExit(f"error: {SMALL_MODULE} is not what is pinned: {why[:600]}")


def build(go: Path, folder: Path, caches: Path, jobs: int) -> None:
    """Builds what is missing in `folder`; a build cut short leaves nothing that looks whole."""
    environment = _environment(caches, jobs)
    missing = {name: package for name, package in PACKAGES.items() if not (folder / name).exists()}
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib < LEAST_FREE_GIB:
        raise SystemExit(
            f"error: only {free_gib:.0f} GiB are free on the disk of {folder}; {LEAST_FREE_GIB} are needed"
        )
    for number, (name, package) in enumerate(missing.items(), 1):
        say(f"Building {name} ({number} of {len(missing)}; all take about five minutes on two cores)")
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as aside:
            part = Path(aside) / name
            command = [str(go), "build", "-v", "-trimpath", "-ldflags", _version_flags(), "-o", str(part), package]
            _run_telling(command, environment, name)
            part.replace(folder / name)


def _run_telling(command: list[str], environment: Mapping[str, str], name: str) -> None:
    """Runs the compiler, which prints a line for each package, and tells now and then how many it is through."""
    began = told = time.monotonic()
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=MODULE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        timer = _Teller(lambda: say(f"{name}: {len(lines)} packages, {time.monotonic() - began:.0f} s"))
        with timer:
            lines.extend(process.stderr)
    told = time.monotonic()
    if process.returncode:
        print("".join(lines[-40:]), file=sys.stderr)
        raise SystemExit(f"error: {name} could not be built; what Go said is above")
    say(f"{name}: built in {told - began:.0f} s")


class _Teller:
    """Calls something every TELL_EVERY_S while its block runs."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(TELL_EVERY_S):
            self._tell()


def _kubernetes_version() -> str:
    found = re.search(r"k8s\.io/kubernetes (v[\d.]+)", (MODULE / "go.mod").read_text())
    assert found is not None
    return found[1]


def _version_flags() -> str:
    """Has the server say which version it is; from a module it would not know."""
    version, package = _kubernetes_version(), "k8s.io/component-base/version"
    major, minor = version[1:].split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X {package}.{name}={value}" for name, value in values.items())


def folder_in(tools: Path) -> Path:
    """Gives the folder where what go.mod and go.sum pin lies once it is built."""
    pins = (MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()
    return tools / "cluster" / f"kubernetes-{_kubernetes_version()}-{hashlib.sha256(pins).hexdigest()[:16]}"


def main() -> int:
    """Prints the folder, or one line that says why there is none; exits 0 in both cases, and 1 where a build fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, default=ROOT / ".tools", help="where it is kept")
    parser.add_argument("--jobs", type=int, default=max(1, len(os.sched_getaffinity(0))), help="compilers at a time")
    parser.add_argument("--keep-caches", action="store_true", help="keep modules and objects, 4 GB")
    options = parser.parse_args()
    tools: Path = options.tools.resolve()
    folder = folder_in(tools)
    if all((folder / name).exists() for name in PACKAGES):
        print(folder)
        return 0
    caches = tools / "cluster" / "go"
    try:
        go = find_go(tools)
        check_reachable(go, _environment(caches, options.jobs))
    except Skipped as reason:
        print(f"skipped: the cluster tests did not run: {reason}.", file=sys.stderr)
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    os.nice(10)
    build(go, folder, caches, options.jobs)
    if not options.keep_caches:
        shutil.rmtree(caches, ignore_errors=True)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
