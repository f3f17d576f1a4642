"""A real kube-apiserver on a real etcd, and kube-controller-manager, on loopback. No kubelet and no scheduler."""

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType

from cryptography import x509

from tests.cluster.authority import CLIENT, SERVER, Authority

READY_S = 120.0
STOP_S = 15.0
CONTROLLERS = (
    "namespace-controller,garbage-collector-controller,serviceaccount-controller,deployment-controller,"
    "replicaset-controller,endpointslice-controller,root-ca-certificate-publisher-controller"
)


class Cluster:
    """A cluster in a folder of its own, which goes with it."""

    def __init__(self, binaries: Path) -> None:
        """`binaries`: the folder with etcd, kube-apiserver and kube-controller-manager."""
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="redoma-cluster-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._authority = Authority(self._folder)
        self._etcd_port, self._peer_port, self.port = _free_ports(3)
        self.url = f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends its processes and removes its folder."""
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            self._end(name, kill=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill_api_server(self) -> None:
        """Ends the API server as a crash would."""
        self._end("kube-apiserver", kill=True)

    def start_api_server(self) -> None:
        """Starts it, at the same port and on the same data, and returns when it is ready."""
        folder, certificate = self._folder, self._server
        self._spawn(
            "kube-apiserver",
            [
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={self.port}",
                "--endpoint-reconciler-type=none",
                f"--tls-cert-file={certificate[0]}",
                f"--tls-private-key-file={certificate[1]}",
                f"--client-ca-file={self._authority.certificate}",
                "--authorization-mode=RBAC",
                "--anonymous-auth=false",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder / 'service-accounts.pub'}",
                f"--service-account-signing-key-file={folder / 'service-accounts.key'}",
                "--service-cluster-ip-range=10.0.0.0/24",
                # A Pod needs a token of the default account otherwise.
                "--disable-admission-plugins=ServiceAccount",
                "--profiling=false",
            ],
        )
        context = ssl.create_default_context(cafile=str(self._authority.certificate))
        context.load_cert_chain(*self._admin)
        self._wait(f"{self.url}/readyz", context)

    def user(self, name: str, namespace: str = "default", groups: Sequence[str] = ()) -> Path:
        """Gives the kubeconfig of a user by a certificate of its own."""
        pair = self._authority.pair(name, name, CLIENT, groups=groups)
        return self._kubeconfig(name, *pair, namespace)

    def compact(self, revision: int) -> None:
        """Has etcd forget all before a revision, as it does every five minutes by itself."""
        body = f'{{"revision": "{revision}", "physical": true}}'.encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._etcd_port}/v3/kv/compaction", data=body)
        with urllib.request.urlopen(request, timeout=10):
            pass

    def _start(self) -> None:
        etcd, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._spawn(
            "etcd",
            [
                "--name=test",
                f"--data-dir={self._folder / 'etcd'}",
                "--unsafe-no-fsync",
                "--logger=zap",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=test={peer}",
            ],
        )
        names = [x509.DNSName(name) for name in ("localhost", "kubernetes.default.svc")]
        self._server = self._authority.pair("apiserver", "kube-apiserver", SERVER, names=names)
        self._admin = self._authority.pair("admin", "admin", CLIENT, groups=["system:masters"])
        self._authority.signing_key("service-accounts")
        self._wait(f"{etcd}/health")
        self.start_api_server()
        self.kubeconfig = self._kubeconfig("admin", *self._admin)
        self._spawn(
            "kube-controller-manager",
            [
                f"--kubeconfig={self.kubeconfig}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                "--secure-port=0",
                f"--cert-dir={self._folder}",
                f"--root-ca-file={self._authority.certificate}",
                f"--service-account-private-key-file={self._folder / 'service-accounts.key'}",
                f"--controllers={CONTROLLERS}",
            ],
        )

    def _kubeconfig(self, name: str, certificate: Path, key: Path, namespace: str = "default") -> Path:
        path = self._folder / f"{name}.kubeconfig"
        path.write_text(
            f"""apiVersion: v1
kind: Config
current-context: test
clusters: [{{name: test, cluster: {{server: "{self.url}", certificate-authority: "{self._authority.certificate}"}}}}]
contexts: [{{name: test, context: {{cluster: test, user: "{name}", namespace: "{namespace}"}}}}]
users: [{{name: "{name}", user: {{client-certificate: "{certificate}", client-key: "{key}"}}}}]
"""
        )
        return path

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(self._binaries / name), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={"PATH": os.environ["PATH"], "HOME": str(self._folder)},
            )

    def _end(self, name: str, *, kill: bool) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, url: str, context: ssl.SSLContext | None = None) -> None:
        def is_ready() -> bool:
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended:\n{self._tail(name)}"
            try:
                with urllib.request.urlopen(url, timeout=5, context=context) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        wait_until(is_ready, f"{url} answers", READY_S)

    def _tail(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-3000:]


def wait_until(check: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Waits until `check` holds."""
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        with closing(one):
            pass
    return ports
