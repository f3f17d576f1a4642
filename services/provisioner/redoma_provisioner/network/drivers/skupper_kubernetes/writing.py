"""Writes to the namespace: makes what is wanted, takes away what is not, and neither touches what is another's."""

import structlog

from redoma_provisioner.network.driver import DriverRefused
from redoma_provisioner.network.drivers.skupper.name import checked_label
from redoma_provisioner.network.drivers.skupper.resource import Resource
from redoma_provisioner.network.drivers.skupper_kubernetes.api import Manifest
from redoma_provisioner.network.drivers.skupper_kubernetes.calls import Calls
from redoma_provisioner.network.drivers.skupper_kubernetes.failure import ChangedMeanwhile, FieldsOwned, NotThere
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import (
    ACCESS_TOKEN,
    BY_NAME,
    CONFIG_MAP,
    DEPLOYMENT,
    LINK,
    SECRET,
    Kind,
)
from redoma_provisioner.network.drivers.skupper_kubernetes.known import Known
from redoma_provisioner.network.drivers.skupper_kubernetes.link import LINK_ID, Adoption, adoptions, made_of, secret_of
from redoma_provisioner.network.drivers.skupper_kubernetes.ownership import (
    Owner,
    differs,
    is_of,
    labels,
    manifest_of,
    name_of,
    part,
    uid_of,
)

_OWNERS = {kind.name.lower(): kind for kind in (DEPLOYMENT, CONFIG_MAP)}


class Writing:
    """What one site's driver writes."""

    def __init__(self, calls: Calls, site: str, owner: str, log: structlog.stdlib.BoundLogger) -> None:
        """`owner`: "deployment/NAME" or "configmap/NAME"; empty is a ConfigMap that is made for it."""
        self._calls = calls
        self._site = site
        self._owner_name = owner
        self._log = log

    async def make(self, resource: Resource, known: Known, owner: Owner) -> None:
        """Makes a resource as it is wanted, or leaves it where it is so.

        Fields of ours that another took over are taken back. Secrets are not read, so one is always applied.

        Raises:
            DriverRefused: It is there and another's, or the API server will not have it.
            ChangedMeanwhile: Another made one of the name just now.
        """
        kind = BY_NAME[resource.kind]
        found = known.all(kind).get(resource.name)
        if found is not None and not is_of(found, self._site):
            raise DriverRefused(
                f"The {kind.name} {resource.name} is there and is not Redoma's. Delete it, or give it another name."
            )
        namespace = await self._calls.run(lambda api: api.namespace)
        manifest = manifest_of(resource, namespace, self._site, owner)
        if found is None or differs(manifest, found):
            await self._apply(manifest, is_ours=found is not None or kind == SECRET)

    async def drop(self, kind: Kind, manifest: Manifest, known: Known) -> None:
        """Deletes a resource of ours, with what Skupper made of it; the Secret first, so that none is left alone."""
        if secret := secret_of(kind, manifest):
            await self._calls.run(lambda api: api.delete(SECRET, secret))
        if kind == ACCESS_TOKEN:
            for one in made_of(manifest, known):
                await self.delete(LINK, one)
        await self.delete(kind, manifest)

    async def delete(self, kind: Kind, manifest: Manifest) -> None:
        """Deletes just the resource that was read, not a later one of its name."""
        name, uid = name_of(manifest), uid_of(manifest)
        await self._calls.run(lambda api: api.delete(kind, name, uid))

    async def adopt(self, known: Known, owner: Owner) -> None:
        """Marks what Skupper made of tokens of ours as ours.

        Raises:
            ChangedMeanwhile: Skupper wrote it just now.
        """
        for one in adoptions(known):
            await self._mark(one, owner)

    async def owner(self) -> Owner:
        """Gives what the cluster collects everything with, after making it where it is ours to make.

        Raises:
            DriverRefused: What the settings name is not there.
        """
        kind, name = self._owner()
        try:
            metadata = await self._calls.run(lambda api: api.metadata(kind, name))
        except NotThere:
            if self._owner_name:
                raise DriverRefused(
                    f"driver.owner names the {kind.name} {name}, which is not there. Give deployment/NAME or "
                    "configmap/NAME of one in the same namespace, or leave it out."
                ) from None
            namespace = await self._calls.run(lambda api: api.namespace)
            manifest = manifest_of(Resource(kind.name, name), namespace, self._site, None)
            await self._calls.run(lambda api: api.apply(manifest))
            metadata = await self._calls.run(lambda api: api.metadata(kind, name))
        return Owner(kind.name, name, str(metadata.get("uid", "")))

    async def drop_owner(self) -> None:
        """Deletes the ConfigMap that was made to own everything, if it is ours."""
        if self._owner_name:
            return
        kind, name = self._owner()
        try:
            found = {"metadata": await self._calls.run(lambda api: api.metadata(kind, name))}
        except NotThere:
            return
        if is_of(found, self._site):
            await self.delete(kind, found)

    def _owner(self) -> tuple[Kind, str]:
        if not self._owner_name:
            return CONFIG_MAP, f"redoma-{checked_label(self._site, 'The site')}"[:63]
        kind, slash, name = self._owner_name.partition("/")
        if not slash or kind.lower() not in _OWNERS:
            raise DriverRefused(
                f"driver.owner {self._owner_name!r} is not valid: give deployment/NAME or configmap/NAME."
            )
        return _OWNERS[kind.lower()], name

    async def _apply(self, manifest: Manifest, *, is_ours: bool) -> None:
        try:
            await self._calls.run(lambda api: api.apply(manifest))
        except FieldsOwned as conflict:
            if not is_ours:
                raise ChangedMeanwhile(str(conflict)) from None
            name = str(part(manifest, "metadata").get("name"))
            self._log.warning(
                "another changed what is Redoma's; taking it back",
                kind=manifest.get("kind"),
                name=name,
                fields=conflict.owners,
            )
            await self._calls.run(lambda api: api.apply(manifest, force=True))

    async def _mark(self, one: Adoption, owner: Owner) -> None:
        metadata: dict[str, object] = {
            "labels": labels(self._site),
            "annotations": {LINK_ID: one.link},
            "ownerReferences": [owner.reference()],
        }
        if one.version:
            metadata["resourceVersion"] = one.version
        try:
            await self._calls.run(lambda api: api.mark(one.kind, one.name, metadata))
        except NotThere:
            self._log.warning("what Skupper made of a token is gone", kind=one.kind.name, name=one.name)
