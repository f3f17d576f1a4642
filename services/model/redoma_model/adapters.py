"""The LoRA adapters of one model: loaded from the operator's folder when their manifests allow it, found by digest."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import structlog

from redoma_kit.errors import DomainError, ResourceExists
from redoma_model.engine.adapters import AdapterManifest, LoadedAdapter, file_digest, read_manifest
from redoma_model.engine.backend import AdapterFileError
from redoma_model.engine.engine import Engine
from redoma_model.errors import AdapterIncompatible, AdapterNotFound, ModelFileError


class Adapters:
    """The adapters that one model's requests can use. Lives on the event loop; files are read on threads."""

    def __init__(
        self, engine: Engine, model_file: Path, folder: Path | None, log: structlog.stdlib.BoundLogger
    ) -> None:
        self._engine = engine
        self._model_file = model_file
        self._folder = folder
        self._log = log
        self._loaded: dict[str, LoadedAdapter] = {}
        # Digests that are on their way in or out.
        self._moving: set[str] = set()
        self._unloading: set[asyncio.Task[None]] = set()
        self._base_digest: asyncio.Task[str] | None = None

    @property
    def loaded(self) -> Mapping[str, LoadedAdapter]:
        """Those in service, by digest."""
        return self._loaded

    async def load(self, relative: str, scale: float | None = None) -> LoadedAdapter:
        """Loads the adapter of the manifest at a path within the folder.

        Args:
            relative: The manifest's path.
            scale: What its weights are multiplied with; None is as the manifest says.

        Raises:
            AdapterNotFound: There is no such manifest.
            AdapterIncompatible: The manifest or the file can't be used, or is for another base model.
            ResourceExists: It is loaded already, or on its way.
        """
        if self._folder is None:
            raise AdapterNotFound(relative)
        manifest = await asyncio.to_thread(read_manifest, self._folder, relative)
        manifest.check_base(await self.base_digest())
        return await self._bring_in(manifest, scale)

    async def unload(self, digest: str) -> None:
        """Takes an adapter out of service at once; returns when its running requests have ended and it is freed.

        A caller who leaves early leaves the rest to go on.

        Raises:
            AdapterNotFound: It is not loaded.
        """
        if self._loaded.pop(digest, None) is None:
            raise AdapterNotFound(digest)
        self._moving.add(digest)
        task = asyncio.create_task(self._take_out(digest))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)
        await asyncio.shield(task)

    async def load_found(self) -> None:
        """Loads every adapter of the folder that is for this model. One that can't be used is logged and left out."""
        if self._folder is None:
            return
        for relative in await asyncio.to_thread(_manifests, self._folder):
            log = self._log.bind(manifest=relative)
            try:
                manifest = await asyncio.to_thread(read_manifest, self._folder, relative)
                if manifest.base_digest != await self.base_digest():
                    log.warning("adapter of another model", base_digest=manifest.base_digest)
                    continue
                adapter = await self._bring_in(manifest, None)
                log.info("adapter loaded", digest=adapter.digest, tenant=adapter.tenant, scale=adapter.scale)
            except DomainError as error:
                log.error("adapter left out", problem=error.message)

    async def base_digest(self) -> str:
        """Gives the digest of the model's file, which is read once, when it is first asked for.

        Raises:
            ModelFileError: It can't be read.
        """
        if self._base_digest is None:
            self._base_digest = asyncio.create_task(asyncio.to_thread(file_digest, self._model_file))
        try:
            return await asyncio.shield(self._base_digest)
        except OSError as error:
            self._base_digest = None
            raise ModelFileError(f"The model file {self._model_file} can't be read: {error.strerror}.") from error

    async def _bring_in(self, manifest: AdapterManifest, scale: float | None) -> LoadedAdapter:
        digest = manifest.digest
        if digest in self._loaded or digest in self._moving:
            raise ResourceExists(f"The adapter {digest}")
        self._moving.add(digest)
        try:
            await asyncio.to_thread(manifest.check_file)
            adapter = await self._engine.load_adapter(manifest.adapter(scale), manifest.file)
        except AdapterFileError as error:
            raise AdapterIncompatible("file", str(error)) from error
        finally:
            self._moving.discard(digest)
        self._loaded[digest] = adapter
        return adapter

    async def _take_out(self, digest: str) -> None:
        try:
            await self._engine.unload_adapter(digest)
        finally:
            self._moving.discard(digest)


def _manifests(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json") if path.is_file())
