"""What of a namespace is Redoma's: told by labels, collected by an owner, compared by the fields that it applied.

Whatever lacks the labels is another's and is never written, whoever made it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from redoma_provisioner.network.drivers.skupper.resource import Resource
from redoma_provisioner.network.drivers.skupper_kubernetes.api import FIELD_MANAGER, Manifest
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import BY_NAME, CONFIG_MAP, SECRET

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
SITE_LABEL = "redoma.io/site"
_API_VERSIONS = {"/api/v1": "v1", "/apis/apps/v1": "apps/v1"}


@dataclass(frozen=True, slots=True)
class Owner:
    """What the cluster collects Redoma's resources with."""

    kind: str
    name: str
    uid: str

    def reference(self) -> dict[str, object]:
        """Gives the reference that each resource holds."""
        return {"apiVersion": api_version(self.kind), "kind": self.kind, "name": self.name, "uid": self.uid}


def api_version(kind: str) -> str:
    """Gives the group and version of a kind."""
    path = BY_NAME[kind].path
    return _API_VERSIONS.get(path, path.removeprefix("/apis/"))


def labels(site: str) -> dict[str, str]:
    """Gives the labels of what a site's driver makes."""
    return {MANAGED_BY_LABEL: FIELD_MANAGER, SITE_LABEL: site}


def manifest_of(resource: Resource, namespace: str, site: str, owner: Owner | None) -> dict[str, object]:
    """Gives what is applied for a resource; without `owner` nothing collects it."""
    metadata: dict[str, object] = {"name": resource.name, "namespace": namespace, "labels": labels(site)}
    if resource.annotations:
        metadata["annotations"] = dict(resource.annotations)
    if owner is not None:
        metadata["ownerReferences"] = [owner.reference()]
    body: dict[str, object] = {
        "apiVersion": api_version(resource.kind),
        "kind": resource.kind,
        "metadata": metadata,
    }
    if resource.kind == SECRET.name:
        return {**body, "type": "kubernetes.io/tls", "data": dict(resource.data)}
    return body if resource.kind == CONFIG_MAP.name else {**body, "spec": dict(resource.spec)}


def is_of(manifest: Manifest, site: str) -> bool:
    """Tells whether a resource is the one that this site's driver made."""
    found = part(part(manifest, "metadata"), "labels")
    return all(found.get(name) == value for name, value in labels(site).items())


def differs(wanted: Manifest, found: Manifest) -> bool:
    """Tells whether applying `wanted` would change `found`: it lacks something, or has a field wanted no more."""
    if not _holds(wanted.get("spec"), found.get("spec")) or _applied(found, "spec") != set(part(wanted, "spec")):
        return True
    metadata, there = part(wanted, "metadata"), part(found, "metadata")
    if _applied(found, "metadata", "annotations") != set(part(metadata, "annotations")):
        return True
    return not all(_holds(metadata.get(key), there.get(key)) for key in ("labels", "annotations", "ownerReferences"))


def part(manifest: Manifest, key: str) -> Mapping[str, object]:
    """Gives an object within an object; an empty one where there is none."""
    value = manifest.get(key)
    return value if isinstance(value, Mapping) else {}


def name_of(manifest: Manifest) -> str:
    """Gives a resource's name."""
    return str(part(manifest, "metadata").get("name", ""))


def uid_of(manifest: Manifest) -> str:
    """Gives what tells a resource from a later one of the same name."""
    return str(part(manifest, "metadata").get("uid", ""))


def _applied(found: Manifest, *path: str) -> set[str]:
    """Gives the names of the fields at `path` that this driver owns by having applied them."""
    entries = part(found, "metadata").get("managedFields")
    for one in entries if isinstance(entries, list) else ():
        if isinstance(one, Mapping) and one.get("manager") == FIELD_MANAGER and one.get("operation") == "Apply":
            fields = part(one, "fieldsV1")
            for step in path:
                fields = part(fields, f"f:{step}")
            return {name.removeprefix("f:") for name in fields if name.startswith("f:")}
    return set()


def _holds(wanted: object, found: object) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_holds(value, found.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) <= len(found)
            and all(any(_holds(one, other) for other in found) for one in wanted)
        )
    return wanted is None or wanted == found
