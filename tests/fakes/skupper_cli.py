"""A stand-in for Skupper's CLI 2.2.1 on a system site, run as a program.

It keeps a tree of files as the real one does, refuses what that refuses in its recorded words
(`skupper_cli_recordings.jsonl`, outputs of the real one), and sees which sites are linked by looking at all the trees
of its world, so that a status is what a router would have made of them. What happens in that world is set in a control
file:

    version     what `skupper version` prints
    controller  whether a system controller runs
    automatic   whether that takes up what is written without a command
    down        namespaces, as "HOME/NAMESPACE", whose router does not run
    cut         homes that nothing can be linked from
    replay      recordings by command, such as {"system reload": "err_reload_no_systemd"}
    dies        namespaces whose router does not survive the next reload
    refuses     words that `system start` and `system reload` of a home refuse with
    hangs       commands that never end
    forwards    whether sites have routers: processes (`skupper_router.py`) that carry connections and can be killed
"""

import base64
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import yaml

RECORDINGS = Path(__file__).with_name("skupper_cli_recordings.jsonl")
WORLD = "SKUPPER_STAND_IN_WORLD"
LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
Manifest = dict[str, object]


@dataclass(frozen=True, slots=True)
class Control:
    """What happens in a world, in a file that tests write."""

    world: Path

    def read(self) -> dict[str, object]:
        """Gives all that is set."""
        try:
            return dict(json.loads((self.world / "control.json").read_text()))
        except FileNotFoundError:
            return {}

    def put(self, **values: object) -> None:
        """Sets some of it."""
        self.world.mkdir(parents=True, exist_ok=True)
        half = self.world / f".control-{os.getpid()}"
        half.write_text(json.dumps({**self.read(), **values}))
        half.replace(self.world / "control.json")

    def names(self, key: str) -> set[str]:
        """Gives one of the lists."""
        value = self.read().get(key)
        return set(value) if isinstance(value, list) else set()

    @property
    def forwards(self) -> bool:
        """Whether sites have routers that carry connections."""
        return bool(self.read().get("forwards"))

    @contextmanager
    def held(self, how: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Holds the files of all sites, so that nobody sees half of what another writes."""
        with (self.world / ".held").open("w") as file:
            fcntl.flock(file, how)
            yield


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of one namespace."""

    home: Path
    namespace: str
    control: Control

    @property
    def root(self) -> Path:
        """The namespace's directory."""
        return self.home / "skupper" / "namespaces" / self.namespace

    @property
    def key(self) -> str:
        """Its name in the control file."""
        return f"{self.home.name}/{self.namespace}"

    def input(self) -> list[tuple[Path, Manifest]]:
        """Gives what is wanted."""
        return list(documents(self.root / "input" / "resources"))

    def runtime(self, kind: str) -> list[Manifest]:
        """Gives what the router runs on, of one kind."""
        return [one for _, one in documents(self.root / "runtime" / "resources") if one.get("kind") == kind]

    def is_up(self) -> bool:
        """Tells whether the router runs."""
        if not (self.root / "runtime" / "router" / "skrouterd.json").exists() or self.key in self.control.names("down"):
            return False
        return not self.control.forwards or runs(self.router_pid())

    @property
    def router_file(self) -> Path:
        """Where the id of its router's process lies."""
        return self.root / "router.pid"

    def router_pid(self) -> int:
        """Gives the id of its router's process; 0 where it never had one."""
        try:
            return int(self.router_file.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def restart_router(self) -> None:
        """Ends its router and starts another, as Podman would."""
        pid = self.router_pid()
        while runs(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        router = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.fakes.skupper_router",
                str(self.control.world),
                str(self.home),
                self.namespace,
            ],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.control.world / f"router-{self.home.name}.log").open("a"),
        )
        self.router_file.write_text(str(router.pid))

    def restarts(self) -> int:
        """Tells how often the router was started."""
        log = self.control.world / "restarts.log"
        return log.read_text().splitlines().count(self.key) if log.exists() else 0

    def certificate(self, issuer: str) -> str:
        """Gives the certificate of one of its authorities, after making it if there is none; it outlives reloads."""
        path = self.root / "runtime" / "issuers" / issuer / "ca.crt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.control.forwards:
                make_certificate(path, issuer)
            else:
                path.write_text(f"-----BEGIN CERTIFICATE-----\n{self.key} {issuer} {os.urandom(8).hex()}\n")
        return path.read_text()


@dataclass(frozen=True, slots=True)
class World:
    """All namespaces of all homes, and which of them are linked."""

    root: Path

    @property
    def control(self) -> Control:
        """What happens in it."""
        return Control(self.root)

    def trees(self) -> list[Tree]:
        """Gives all namespaces."""
        found = sorted(self.root.glob("*/skupper/namespaces/*"))
        return [Tree(path.parents[2], path.name, self.control) for path in found if path.is_dir()]

    def carries(self, tree: Tree, link: Mapping[str, object]) -> Tree | None:
        """Gives the site that a link of another carries to, where it does."""
        spec, name = mapping(link, "spec"), text(mapping(link, "spec").get("tlsCredentials"))
        secret = next((one for one in tree.runtime("Secret") if name_of(one) == name), {})
        ca = base64.b64decode(text(mapping(secret, "data").get("ca.crt"))).decode()
        ports = {text(one.get("port")) for one in sequence(spec.get("endpoints"))}
        if not tree.is_up() or tree.home.name in self.control.names("cut"):
            return None
        for other in self.trees():
            for access in other.runtime("RouterAccess") if other.is_up() else ():
                asked = mapping(access, "spec")
                own = {text(one.get("port")) for one in sequence(asked.get("roles"))}
                if own & ports and other.certificate(text(asked.get("issuer") or "skupper-site-ca")) == ca:
                    return other
        return None

    def peers(self, tree: Tree) -> list[Tree]:
        """Gives the sites that are linked to one, whichever made the link."""
        found = {}
        for other in self.trees():
            for link in other.runtime("Link"):
                to = self.carries(other, link)
                if to is not None and tree in (to, other):
                    peer = to if other == tree else other
                    found[peer.key] = peer
        return list(found.values())

    def matches(self, tree: Tree, manifest: Mapping[str, object], other: str) -> bool:
        """Tells whether a linked site has the listener of a connector, or the other way round."""
        key = mapping(manifest, "spec").get("routingKey")
        return any(
            mapping(one, "spec").get("routingKey") == key for peer in self.peers(tree) for one in peer.runtime(other)
        )

    def listens(self, port: int) -> bool:
        """Tells whether a connection to a port would open: a router's own, or a listener's with a connector."""
        for tree in self.trees():
            if not tree.is_up():
                continue
            config = json.loads((tree.root / "runtime" / "router" / "skrouterd.json").read_text())
            if any(kind == "listener" and int(entry["port"]) == port for kind, entry in config):
                return True
            for one in tree.runtime("Listener"):
                if text(mapping(one, "spec").get("port")) == str(port) and self.matches(tree, one, "Connector"):
                    return True
        return False


class Cli:
    """One run of the program."""

    def __init__(self, world: World, home: Path, platform: str, namespace: str, out: TextIO, err: TextIO) -> None:
        """`home`: what XDG_DATA_HOME says."""
        self._out = out
        self._err = err
        self._world = world
        self._control = world.control
        self._platform = platform
        self._tree = Tree(home, namespace, world.control)

    def run(self, command: Sequence[str]) -> int:
        """Runs a command, and gives its exit code."""
        words = " ".join(command[:2])
        control = self._control.read()
        if words in self._control.names("hangs"):
            while True:
                time.sleep(60)
        replay = control.get("replay")
        if isinstance(replay, dict) and words in replay:
            return self._replay(str(replay[words]))
        if command[0] == "version":
            print(control.get("version", "2.2.1"), file=self._out)
            return 0
        if self._platform not in ("podman", "docker", "linux"):
            return self._replay(
                "err_no_platform_system_reload" if command[0] == "system" else "err_no_platform_site_status"
            )
        if words in ("system start", "system reload"):
            return self._start(reload=command[1] == "reload")
        if command[1] == "status":
            return self._status(command[0].title())
        if words == "link generate":
            return self._generate(dict(zip(command[2::2], command[3::2], strict=False)))
        return self._replay("err_unknown_command")

    def _replay(self, name: str) -> int:
        recording = recorded(name)
        self._out.write(text(recording["stdout"]))
        self._err.write(text(recording["stderr"]))
        return int(text(recording["exit_code"]))

    def _start(self, *, reload: bool) -> int:
        tree = self._tree
        started = (tree.root / "runtime" / "resources").is_dir()
        if started and not reload:
            print(f"namespace already exists: {tree.namespace}", file=self._out)
            return 2
        found = tree.input()
        if not found:
            return self._replay("err_no_namespace_system_reload")
        print(f'Sources will be consumed from namespace "{tree.namespace}"', file=self._out)
        refusal = self._refusal(found)
        if refusal:
            print(f"Failed to bootstrap: {refusal}", file=self._out)
            return 1
        with self._control.held():
            self.render()
        if self._control.forwards:
            tree.restart_router()
        print(f'Site "x" has been created on namespace "{tree.namespace}"\nPlatform: {self._platform}', file=self._out)
        return 0

    def _refusal(self, found: Sequence[tuple[Path, Manifest]]) -> str:
        """Gives the words that the real one refuses a namespace with; empty where it takes it."""
        words = mapping(self._control.read(), "refuses").get(self._tree.home.name)
        kinds = [one.get("kind") for _, one in found]
        platform = self._tree.root / "internal" / "platform.yaml"
        if platform.exists() and platform.read_text() != f"platform: {self._platform}\n":
            was = platform.read_text().partition(" ")[2].strip()
            return f'existing namespace uses "{was}" platform and it cannot change to "{self._platform}"'
        if kinds.count("Site") != 1:
            several, none = (
                "multiple sites found, but only one site is allowed",
                "no valid site definition has been found",
            )
            return f"failed to load site state: {several if 'Site' in kinds else none}"
        if len({mapping(one, "metadata").get("namespace", "default") for _, one in found}) > 1:
            return "failed to load site state: multiple namespaces found, but only a unique namespace must be used"
        if "AccessToken" in kinds:
            return "failed to render site state: failed to redeem claims: failed to redeem 1 claims"
        bad = [name_of(one) for _, one in found if not LABEL.match(name_of(one))]
        if bad:
            return f"failed to render site state: invalid listener name: invalid name {json.dumps(bad[0])}"
        if "Link" in kinds and "Secret" not in kinds:
            return "failed to render site state: unable to process links (no secrets found)"
        return f"failed to render site state: {words}" if words else ""

    def render(self) -> None:
        """Writes what a start or reload writes, and starts the router."""
        tree = self._tree
        found = [one for _, one in tree.input()]
        for name in ("runtime/router", "runtime/resources", "runtime/links", "internal/snapshot"):
            shutil.rmtree(tree.root / name, ignore_errors=True)
            (tree.root / name).mkdir(parents=True)
        (tree.root / "internal" / "platform.yaml").write_text(f"platform: {self._platform}\n")
        ports = [{"name": "skupper-local-normal", "port": self._local_port()}]
        for one in found:
            put(tree.root / "internal" / "snapshot", {**one, "status": {}})
            put(tree.root / "runtime" / "resources", one)
            if one["kind"] == "RouterAccess":
                ports += [{"port": port["port"]} for port in sequence(mapping(one, "spec").get("roles"))]
                self._write_links(one)
        config: list[object] = [["router", {"mode": "interior"}], *(["listener", one] for one in ports)]
        (tree.root / "runtime" / "router" / "skrouterd.json").write_text(json.dumps(config))
        with (self._control.world / "restarts.log").open("a") as log:
            log.write(f"{tree.key}\n")
        dies = self._control.names("dies")
        if tree.key in dies:
            self._control.put(dies=sorted(dies - {tree.key}), down=sorted({*self._control.names("down"), tree.key}))
        else:
            self._control.put(down=sorted(self._control.names("down") - {tree.key}))

    def _local_port(self) -> int:
        """Gives the port that only this namespace's router has."""
        return 20_000 + zlib.crc32(self._tree.key.encode()) % 10_000

    def _write_links(self, access: Mapping[str, object]) -> None:
        spec, name = mapping(access, "spec"), f"link-{name_of(access)}"
        ca = self._tree.certificate(text(spec.get("issuer") or "skupper-site-ca"))
        secret = next(
            one
            for one in yaml.safe_load_all(text(recorded("link_secret_skeleton.yaml")["file"]))
            if one["kind"] == "Secret"
        )
        key = "-----BEGIN PRIVATE KEY-----\n"
        values = {"ca.crt": ca, "tls.crt": ca, "tls.key": key, "connect.json": "{}"}
        secret["data"] = {one: base64.b64encode(value.encode()).decode() for one, value in values.items()}
        secret["metadata"] = {"name": name}
        for host in [spec.get("bindHost"), *sequence_of_text(spec.get("subjectAlternativeNames"))]:
            ends = [
                {"name": one["name"], "host": host, "port": str(one["port"])} for one in sequence(spec.get("roles"))
            ]
            link = {"apiVersion": "skupper.io/v2alpha1", "kind": "Link", "metadata": {"name": name}}
            link["spec"] = {"cost": 1, "endpoints": ends, "tlsCredentials": name}
            content = yaml.safe_dump_all([secret, link], explicit_start=True)
            (self._tree.root / "runtime" / "links" / f"{name}-{host}.yaml").write_text(content)

    def _generate(self, flags: Mapping[str, str]) -> int:
        path = self._tree.root / "runtime" / "links" / f"{flags.get('--name')}-{flags.get('--host')}.yaml"
        if not path.parent.is_dir():
            return self._replay("err_no_namespace_link_generate")
        if not self._tree.runtime("RouterAccess"):
            return self._replay("link_generate_no_access")
        print(path.read_text() if path.exists() else "no tokens found", file=self._out)
        return 0

    def _status(self, kind: str) -> int:
        tree = self._tree
        if not (tree.root / "runtime" / "resources").is_dir():
            if kind == "Link":
                return self._replay("a_priv_link_status")
            self._err.write("Site not initialized yet\n")
            found = [one for _, one in tree.input() if one.get("kind") == kind]
        else:
            found = [self._with_status(kind, one) for one in tree.runtime(kind)]
        for one in found:
            metadata = {"name": name_of(one), "namespace": tree.namespace}
            print(json.dumps({**one, "metadata": metadata}, indent=2), file=self._out)
        if not found and kind != "Link":
            print(
                "There is no existing Skupper site resource" if kind == "Site" else f"No {kind.lower()}s found",
                file=self._out,
            )
        return 0

    def _with_status(self, kind: str, manifest: Manifest) -> Manifest:
        said = {"Configured": True}
        if self._control.read().get("controller", True):
            if kind == "Listener":
                said["Matched"] = self._world.matches(self._tree, manifest, "Connector")
            elif kind == "Connector":
                said["Matched"] = self._world.matches(self._tree, manifest, "Listener")
            elif kind == "Link":
                said["Operational"] = self._world.carries(self._tree, manifest) is not None
        conditions = [
            {
                "type": type_,
                "status": str(holds),
                "reason": "Ready" if holds else "Pending",
                "message": "OK" if holds else "Not",
            }
            for type_, holds in said.items()
        ]
        status: Manifest = {"conditions": conditions, "message": "OK", "status": "Ready"}
        if kind == "Site":
            status["network"] = [self._peer(one) for one in [self._tree, *self._world.peers(self._tree)]]
        return {**manifest, "status": status}

    def _peer(self, tree: Tree) -> Manifest:
        """Gives a site as the picture of the network has it."""
        site = next((name_of(one) for one in tree.runtime("Site")), "x")
        services = [
            {"routingKey": mapping(one, "spec").get("routingKey"), "connectors": ["127.0.0.1"]}
            for one in tree.runtime("Connector")
        ]
        links = [
            {"name": name_of(one), "operational": self._world.carries(tree, one) is not None}
            for one in tree.runtime("Link")
        ]
        return {"id": tree.key, "name": f"{site}-1795150974-886350057", "links": links, "services": services}


def documents(directory: Path) -> Iterable[tuple[Path, Manifest]]:
    """Reads the resources in a directory as Skupper does: every .yaml, whatever its name says."""
    for path in sorted(directory.glob("*.yaml")):
        if not path.name.startswith("."):
            for one in yaml.load_all(path.read_text(), Loader=LOADER):
                if isinstance(one, dict):
                    yield path, one


def runs(pid: int) -> bool:
    """Tells whether a process runs; one that ended and that nobody has asked after does not."""
    try:
        return pid > 0 and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def make_certificate(path: Path, name: str) -> None:
    """Writes a certificate that signs itself, and its key beside it."""
    own = ["-keyout", str(path.with_name("tls.key")), "-out", str(path), "-subj", f"/CN={name}"]
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *own]
    subprocess.run([*words, "-days", "2"], check=True, capture_output=True)


def put(directory: Path, manifest: Mapping[str, object]) -> None:
    """Writes a resource for all to read, as Skupper does."""
    path = directory / f"{manifest['kind']}-{name_of(manifest)}.yaml"
    path.write_text(yaml.dump(dict(manifest), Dumper=DUMPER))
    path.chmod(0o644)


def recorded(name: str) -> dict[str, object]:
    """Gives a recording of the real one."""
    for line in RECORDINGS.read_text().splitlines():
        if line.startswith(f'{{"name": "{name}"'):
            return dict(json.loads(line))
    raise KeyError(name)


def mapping(value: object, key: str) -> Mapping[str, object]:
    """Gives a mapping in a mapping; empty where there is none."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def sequence(value: object) -> list[Mapping[str, object]]:
    """Gives the mappings of a list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def sequence_of_text(value: object) -> list[str]:
    """Gives the texts of a list."""
    return [str(one) for one in value] if isinstance(value, list) else []


def text(value: object) -> str:
    """Gives a text; empty for nothing."""
    return "" if value is None else str(value)


def name_of(manifest: Mapping[str, object]) -> str:
    """Gives a resource's name."""
    return text(mapping(manifest, "metadata").get("name"))


class Controller:
    """A stand-in for the system controller: it holds the lock, and where it is automatic takes up what is written."""

    def __init__(self, world: World, home: Path, platform: str, namespace: str) -> None:
        """`home`: of the namespace that it takes up."""
        self._tree = Tree(home, namespace, world.control)
        self._cli = Cli(world, home, platform, namespace, sys.stdout, sys.stderr)
        path = home / "skupper" / "namespaces" / "controller.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = path.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def take_up(self) -> None:
        """Takes up what is written, without a restart of the router."""
        before = self._tree.restarts()
        with self._tree.control.held():
            self._cli.render()
        if self._tree.control.forwards and not self._tree.router_file.exists():
            self._tree.restart_router()
        log = self._tree.control.world / "restarts.log"
        lines = log.read_text().splitlines()
        log.write_text("".join(f"{line}\n" for line in lines[:-1]) if before else "")

    def stop(self) -> None:
        """Lets go of the lock."""
        self._lock.close()


def main(arguments: Sequence[str], environ: Mapping[str, str], out: TextIO, err: TextIO) -> int:
    """Runs one command, and gives its exit code."""
    flags = {"-n": "default", "-p": environ.get("SKUPPER_PLATFORM", "")}
    command, position = list[str](), 0
    while position < len(arguments):
        if arguments[position] in flags:
            flags[arguments[position]] = arguments[position + 1]
            position += 1
        else:
            command.append(arguments[position])
        position += 1
    world = World(Path(environ[WORLD]))
    return Cli(world, Path(environ["XDG_DATA_HOME"]), flags["-p"], flags["-n"], out, err).run(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, sys.stdout, sys.stderr))
