"""The behaviour suite's lab of the driver for Skupper on Kubernetes: a namespace a site, on a real API server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
import yaml
from kubernetes import client
from kubernetes.client import ApiException

from redoma_provisioner.network.driver import AdmittedSite, DesiredLink, NetworkDriver
from redoma_provisioner.network.drivers.skupper.link_resources import LinkCredentials
from redoma_provisioner.network.drivers.skupper.probe import Trust
from redoma_provisioner.network.drivers.skupper_kubernetes.api import ApiServer
from redoma_provisioner.network.drivers.skupper_kubernetes.connection import connect
from redoma_provisioner.network.drivers.skupper_kubernetes.driver import Options, SkupperKubernetesDriver
from redoma_provisioner.network.drivers.skupper_kubernetes.ownership import MANAGED_BY_LABEL
from tests.cluster.cluster import Cluster, wait_until
from tests.fakes.driver_suite import PUBLIC, Ability
from tests.fakes.skupper_controller import GROUP, KINDS, VERSION, SkupperStandIn, admin, random_namespace

ABILITIES = (
    Ability.CUT,
    Ability.RESTART,
    Ability.FOREIGN,
    Ability.REFUSE,
    Ability.REFUSE_ONE,
    Ability.TAKE_AWAY,
    Ability.MATCH,
)
STRANGER = "somebody"


class StandInProbe:
    """Tells whether a listener's port would open, of which the stand-in for Skupper has none."""

    def __init__(self, skupper: SkupperStandIn) -> None:
        self._skupper = skupper

    async def opens(self, host: str, port: int) -> bool:
        """See Probe."""
        name, namespace, suffix = host.split(".")
        assert suffix == "svc"
        return self._skupper.is_reachable(namespace, name)

    async def trusts(self, host: str, port: int, credentials: LinkCredentials) -> Trust:
        """See Probe."""
        raise NotImplementedError


class KubernetesLab:
    """See DriverLab."""

    settle_s = 30.0

    def __init__(self, cluster: Cluster, skupper: SkupperStandIn, options: Options | None = None) -> None:
        """`options`: of every driver."""
        self._cluster = cluster
        self._skupper = skupper
        self._options = options or Options()
        self._drivers: list[NetworkDriver] = []
        self._namespaces: dict[str, str] = {}
        self._policies: list[str] = []
        api = admin(cluster.kubeconfig)
        self.objects: Any = client.CustomObjectsApi(api)
        self.core: Any = client.CoreV1Api(api)
        self._admission: Any = client.AdmissionregistrationV1Api(api)

    async def namespace(self, site: str) -> str:
        """Gives the namespace of a site, after making it if there is none."""
        if site not in self._namespaces:
            name = random_namespace(site)
            await asyncio.to_thread(self.core.create_namespace, {"metadata": {"name": name}})
            self._namespaces[site] = name
        return self._namespaces[site]

    def forget(self, site: str) -> None:
        """Leaves out a namespace that a test deleted."""
        del self._namespaces[site]

    async def driver(
        self, site: str, kubeconfig: Path | None = None, seen_as: Callable[[ApiServer], ApiServer] = lambda api: api
    ) -> SkupperKubernetesDriver:
        """Makes a driver of a site, by the account of a kubeconfig; `seen_as` may stand before the API server."""
        namespace, path = await self.namespace(site), kubeconfig or self._cluster.kubeconfig
        made = SkupperKubernetesDriver(
            lambda: seen_as(connect(path, namespace)),
            site,
            self._options,
            StandInProbe(self._skupper),
            lambda: datetime.now(UTC),
            structlog.stdlib.get_logger(),
        )
        self._drivers.append(made)
        return made

    async def public(self) -> NetworkDriver:
        """See DriverLab."""
        return await self.driver(PUBLIC)

    async def private(self, site: str) -> NetworkDriver:
        """See DriverLab."""
        return await self.driver(site)

    async def admitted(self, site: str) -> AdmittedSite:
        """See DriverLab."""
        return AdmittedSite(site, ("ab" * 32,))

    async def link(self, site: str, resources: str) -> DesiredLink:
        """See DriverLab."""
        return DesiredLink("main", resources=resources)

    async def target(self, site: str, routing_key: str) -> str:
        """See DriverLab."""
        return "model.redoma.svc:50051"

    async def inventory(self) -> Mapping[str, str]:
        """See DriverLab."""
        return {name: version for name, version, owner in await self._all() if owner != STRANGER}

    async def reaches(self, routing_key: str) -> bool:
        """See DriverLab."""
        raise NotImplementedError

    async def cut(self, site: str) -> None:
        """See DriverLab."""
        self._skupper.cut.add(await self.namespace(site))

    async def restore(self, site: str) -> None:
        """See DriverLab."""
        self._skupper.cut.discard(await self.namespace(site))

    async def restart(self) -> None:
        """See DriverLab: the API server, by a crash."""
        await self.take_away()
        await self.bring_back()

    async def put_foreign(self) -> None:
        """See DriverLab."""
        specs: Mapping[str, tuple[str, Mapping[str, object]]] = {
            "Listener": (PUBLIC, {"routingKey": "theirs", "host": "theirs", "port": 80}),
            "AccessGrant": (PUBLIC, {"redemptionsAllowed": 1, "expirationWindow": "900s"}),
            "RouterAccess": (PUBLIC, {"roles": [{"name": "edge", "port": 45671}], "tlsCredentials": "theirs"}),
            "Connector": ("hospital-a", {"routingKey": "theirs", "host": "theirs", "port": 80}),
            "Link": ("hospital-a", {"endpoints": [{"name": "edge", "host": "nowhere", "port": "1"}]}),
            "AccessToken": ("hospital-a", {"url": "https://localhost:1/x", "code": "x", "ca": "x"}),
        }
        for kind, (site, spec) in specs.items():
            await self.create(kind, site, "theirs", spec, {MANAGED_BY_LABEL: STRANGER})

    async def create(
        self, kind: str, site: str, name: str, spec: Mapping[str, object], labels: Mapping[str, str] | None = None
    ) -> None:
        """Makes one of Skupper's resources by another's hand."""
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": kind,
            "metadata": {"name": name, "labels": dict(labels or {})},
            "spec": dict(spec),
        }
        namespace, plural = await self.namespace(site), KINDS[kind]
        await asyncio.to_thread(
            self.objects.create_namespaced_custom_object,
            GROUP,
            VERSION,
            namespace,
            plural,
            body,
            field_manager=STRANGER,
        )

    async def foreign(self) -> Mapping[str, str]:
        """See DriverLab."""
        return {name: version for name, version, owner in await self._all() if owner == STRANGER}

    async def refuse(self, words: str, routing_key: str) -> None:
        """See DriverLab: a policy of the cluster's administrator."""
        if not words:
            for name in self._policies:
                await asyncio.to_thread(self._admission.delete_validating_admission_policy_binding, name)
                await asyncio.to_thread(self._admission.delete_validating_admission_policy, name)
            self._policies.clear()
            await self._until_refused("", routing_key)
            return
        name = random_namespace("refuse")
        await asyncio.to_thread(self._make_policy, name, words, routing_key)
        self._policies.append(name)
        await self._until_refused(words, routing_key)

    async def take_away(self) -> None:
        """See DriverLab."""
        await asyncio.to_thread(self._cluster.kill_api_server)

    async def bring_back(self) -> None:
        """See DriverLab."""
        await asyncio.to_thread(self._cluster.start_api_server)

    async def close(self) -> None:
        """Closes every driver, and has the namespaces go."""
        for driver in self._drivers:
            await driver.close()
        if self._policies:
            await self.refuse("", "any")
        for name in self._namespaces.values():
            await asyncio.to_thread(self.core.delete_namespace, name)

    async def resources(self, kind: str, site: str) -> dict[str, dict[str, Any]]:
        """Gives the resources of a kind in a site's namespace, by name."""
        namespace = await self.namespace(site)
        found = await asyncio.to_thread(
            self.objects.list_namespaced_custom_object, GROUP, VERSION, namespace, KINDS[kind]
        )
        return {one["metadata"]["name"]: one for one in found["items"]}

    async def _all(self) -> list[tuple[str, str, str | None]]:
        """Gives what is there besides what a cluster puts into each namespace: a name, a version that changes with what
        is wanted of it and not with what is said of it, and who is said to manage it."""
        found: list[tuple[str, str, str | None]] = []
        for site, namespace in self._namespaces.items():
            for kind in KINDS:
                for name, one in (await self.resources(kind, site)).items():
                    metadata = one["metadata"]
                    written = [each for each in metadata["managedFields"] if each.get("subresource") != "status"]
                    version = json.dumps([metadata["uid"], metadata["generation"], written], sort_keys=True)
                    found.append((f"{site}/{kind}/{name}", version, metadata.get("labels", {}).get(MANAGED_BY_LABEL)))
            for kind, listed in (
                ("Secret", await asyncio.to_thread(self.core.list_namespaced_secret, namespace)),
                ("ConfigMap", await asyncio.to_thread(self.core.list_namespaced_config_map, namespace)),
            ):
                for metadata in (each.metadata for each in listed.items):
                    if metadata.name != "kube-root-ca.crt":
                        name, owner = f"{site}/{kind}/{metadata.name}", (metadata.labels or {}).get(MANAGED_BY_LABEL)
                        found.append((name, metadata.resource_version, owner))
        return found

    def _make_policy(self, name: str, words: str, routing_key: str) -> None:
        rule = {
            "apiGroups": [GROUP],
            "apiVersions": [VERSION],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["listeners"],
        }
        check = {"expression": f"object.spec.routingKey != '{routing_key}'", "message": words}
        self._admission.create_validating_admission_policy(
            {
                "metadata": {"name": name},
                "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [check]},
            }
        )
        self._admission.create_validating_admission_policy_binding(
            {"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}
        )

    async def _until_refused(self, words: str, routing_key: str) -> None:
        """Waits until a policy is in force, or is no more; the API server takes a moment."""
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Listener",
            "metadata": {"name": "trial"},
            "spec": {"routingKey": routing_key, "host": "trial", "port": 1},
        }

        def is_so() -> bool:
            try:
                self.objects.create_namespaced_custom_object(
                    GROUP, VERSION, self._namespaces[PUBLIC], "listeners", body, dry_run="All"
                )
            except ApiException as error:
                return bool(words) and words in str(error.body)
            return not words

        await asyncio.to_thread(wait_until, is_so, "the policy is in force, or no more", self.settle_s)


@asynccontextmanager
async def kubernetes_lab(
    cluster: Cluster, skupper: SkupperStandIn, options: Options | None = None
) -> AsyncIterator[KubernetesLab]:
    """Makes a lab and takes it away."""
    lab = KubernetesLab(cluster, skupper, options)
    try:
        yield lab
    finally:
        await lab.close()


def documents(folder: Path) -> list[dict[str, Any]]:
    """Reads every resource in the YAML files of a folder."""
    found: list[dict[str, Any]] = []
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        for one in yaml.safe_load_all(path.read_text()):
            found += one["items"] if isinstance(one, dict) and one.get("kind") == "List" else [one]
    return [one for one in found if isinstance(one, dict)]
