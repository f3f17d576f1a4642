"""The driver works with just the rights that docs/operations says, uses all of them, and says which one is missing."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from redoma_provisioner.network.driver import DesiredLink, DesiredListener, DesiredNetwork, DriverRefused
from redoma_provisioner.network.drivers.skupper_kubernetes.api import ApiServer, Changes, Listing, Manifest
from redoma_provisioner.network.drivers.skupper_kubernetes.driver import SkupperKubernetesDriver
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import BY_NAME, Kind
from tests.cluster.cluster import Cluster, wait_until
from tests.cluster.kubernetes_lab import KubernetesLab
from tests.cluster.test_watching import following
from tests.fakes.driver_suite import PUBLIC, Ends, comes_true, join, leave
from tests.fakes.skupper_controller import admin
from tests.unit.provisioner.skupper_kubernetes.link_files import link_file

pytestmark = pytest.mark.cluster
DOCS = Path(__file__).parents[2] / "docs" / "operations"
Right = tuple[str, str]


class Used:
    """Writes down which rights are used."""

    def __init__(self, api: ApiServer, rights: set[Right]) -> None:
        self._api = api
        self._rights = rights
        self.namespace = api.namespace

    def list(self, kind: Kind, limit: int = 0) -> Listing:
        """See ApiServer."""
        self._note(kind, "list")
        return self._api.list(kind, limit)

    def metadata(self, kind: Kind, name: str) -> Manifest:
        """See ApiServer."""
        self._note(kind, "get")
        return self._api.metadata(kind, name)

    def apply(self, manifest: Manifest, *, force: bool = False) -> None:
        """See ApiServer."""
        self._note(BY_NAME[str(manifest["kind"])], "create", "patch")
        self._api.apply(manifest, force=force)

    def mark(self, kind: Kind, name: str, metadata: Manifest) -> None:
        """See ApiServer."""
        self._note(kind, "patch")
        self._api.mark(kind, name, metadata)

    def delete(self, kind: Kind, name: str, uid: str = "") -> None:
        """See ApiServer."""
        self._note(kind, "delete")
        self._api.delete(kind, name, uid)

    def watch(self, kind: Kind, version: str) -> Changes:
        """See ApiServer."""
        self._note(kind, "watch")
        return self._api.watch(kind, version)

    def close(self) -> None:
        """See ApiServer."""
        self._api.close()

    def _note(self, kind: Kind, *verbs: str) -> None:
        self._rights |= {(kind.plural, verb) for verb in verbs}


def rules(role: str) -> list[dict[str, Any]]:
    """Gives the rules of one of the roles in docs/operations."""
    found: list[dict[str, Any]] = yaml.safe_load((DOCS / f"skupper-role-{role}.yaml").read_text())["rules"]
    return found


def rights_of(role: list[dict[str, Any]]) -> set[Right]:
    """Gives each right that rules give."""
    return {(resource, verb) for rule in role for resource in rule["resources"] for verb in rule["verbs"]}


async def limited(
    cluster: Cluster,
    lab: KubernetesLab,
    site: str,
    role: list[dict[str, Any]],
    seen_as: Callable[[ApiServer], ApiServer] = lambda api: api,
) -> SkupperKubernetesDriver:
    """Makes a driver by an account that has these rules and nothing else."""
    namespace = await lab.namespace(site)
    rights: Any = client.RbacAuthorizationV1Api(admin(cluster.kubeconfig))

    def grant() -> Path:
        rights.create_namespaced_role(namespace, {"metadata": {"name": "redoma-network"}, "rules": role})
        subject = {"kind": "User", "name": namespace, "apiGroup": "rbac.authorization.k8s.io"}
        role_ref = {"kind": "Role", "name": "redoma-network", "apiGroup": "rbac.authorization.k8s.io"}
        rights.create_namespaced_role_binding(
            namespace, {"metadata": {"name": "redoma-network"}, "roleRef": role_ref, "subjects": [subject]}
        )
        path = cluster.user(namespace, namespace)
        own: Any = client.AuthorizationV1Api(admin(path))
        asked = {"namespace": namespace, "verb": "list", "group": "skupper.io", "resource": "sites"}
        review = {"spec": {"resourceAttributes": asked}}
        wait_until(lambda: own.create_self_subject_access_review(review).status.allowed, "the role is in force")
        return path

    return await lab.driver(site, await asyncio.to_thread(grant), seen_as)


async def test_the_roles_of_the_docs_are_enough_and_no_more(cluster: Cluster, lab: KubernetesLab) -> None:
    used: dict[str, set[Right]] = {PUBLIC: set(), "hospital-a": set()}
    drivers = {
        site: await limited(cluster, lab, site, rules(role), lambda api, of=rights: Used(api, of))  # type: ignore[misc]
        for (site, rights), role in zip(used.items(), ("public", "private"), strict=True)
    }
    async with following(drivers[PUBLIC]), following(drivers["hospital-a"]):
        ends = await join_by(lab, drivers[PUBLIC], drivers["hospital-a"])
        await leave(ends)
        link = DesiredLink("main", resources=link_file())
        await ends.private.apply(DesiredNetwork("hospital-a", links=(link,)))
        assert await lab.resources("Link", "hospital-a")
        await leave(ends)
    assert not await lab.inventory()
    assert used[PUBLIC] == rights_of(rules("public"))
    assert used["hospital-a"] == rights_of(rules("private"))


async def join_by(lab: KubernetesLab, public: SkupperKubernetesDriver, private: SkupperKubernetesDriver) -> Ends:
    """Joins as `join` does, with these drivers."""
    made = await join(_Drivers(lab, public, private))  # type: ignore[arg-type]
    made.lab = lab
    return made


class _Drivers:
    """A lab that gives drivers that were made before."""

    def __init__(self, lab: KubernetesLab, public: SkupperKubernetesDriver, private: SkupperKubernetesDriver) -> None:
        self._lab = lab
        self._made = (public, private)

    async def public(self) -> SkupperKubernetesDriver:
        return self._made[0]

    async def private(self, site: str) -> SkupperKubernetesDriver:
        return self._made[1]

    def __getattr__(self, name: str) -> object:
        return getattr(self._lab, name)


@pytest.mark.parametrize(
    ("resource", "verb", "rule"),
    [
        ("listeners", "patch", 'apiGroups: ["skupper.io"], resources: ["listeners"], verbs: ["patch"]'),
        ("accessgrants", "list", 'apiGroups: ["skupper.io"], resources: ["accessgrants"], verbs: ["list"]'),
        ("configmaps", "get", 'apiGroups: [""], resources: ["configmaps"], verbs: ["get"]'),
    ],
)
async def test_a_missing_right_is_told_as_a_rule(
    cluster: Cluster, lab: KubernetesLab, resource: str, verb: str, rule: str
) -> None:
    role = [
        {"apiGroups": one["apiGroups"], "resources": [each], "verbs": [word for word in one["verbs"] if word != verb]}
        if each == resource
        else {"apiGroups": one["apiGroups"], "resources": [each], "verbs": one["verbs"]}
        for one in rules("public")
        for each in one["resources"]
    ]
    driver = await limited(cluster, lab, PUBLIC, role)
    with pytest.raises(DriverRefused) as refused:
        await driver.apply(DesiredNetwork(PUBLIC, listeners=(DesiredListener("a.model-0", "a"),)))
    assert rule in str(refused.value)


async def test_an_account_without_watch_still_sees_and_applies(cluster: Cluster, lab: KubernetesLab) -> None:
    role = [{**one, "verbs": [verb for verb in one["verbs"] if verb != "watch"]} for one in rules("public")]
    driver = await limited(cluster, lab, PUBLIC, role)
    private = await lab.driver("hospital-a")
    async with following(driver):
        ends = await join_by(lab, driver, private)
        await comes_true(lab, ends.is_linked, "linked without being told of changes")
