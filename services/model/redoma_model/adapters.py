"""The LoRA adapters of one model: loaded from the operator's folder when their manifests allow it, found by digest."""

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TypeVar

import structlog

from redoma_kit.errors import DomainError, ResourceExists
from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.engine.backend import AdapterFileError
from redoma_model.engine.engine import Engine
from redoma_model.errors import AdapterIncompatible, AdapterNotFound, ModelFileError
from redoma_model.manifest import AdapterManifest, file_digest, read_manifest

T = TypeVar("T")


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
        # What goes on though its caller may have left: the engine has begun it.
        self._going_on: set[asyncio.Task[object]] = set()
        self._base_digest: asyncio.Task[str] | None = None

    @property
    def loaded(self) -> Mapping[str, LoadedAdapter]:
        """Those in service, by digest."""
        return self._loaded

    def is_moving(self, digest: str) -> bool:
        """Tells whether an adapter is on its way in or out."""
        return digest in self._moving

    async def load(self, relative: str, scale: float | None = None) -> LoadedAdapter:
        """Loads the adapter of the manifest at a path within the folder.

        A caller who leaves early leaves the rest to go on.

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
        return await self._see_through(self._bring_in(manifest, scale))

    async def unload(self, digest: str) -> None:
        """Takes an adapter out of service at once; returns when its running requests have ended and it is freed.

        A caller who leaves early leaves the rest to go on.

        Raises:
            AdapterNotFound: It is not loaded.
        """
        if self._loaded.pop(digest, None) is None:
            raise AdapterNotFound(digest)
        self._moving.add(digest)
        await self._see_through(self._take_out(digest))

    async def load_found(self) -> None:
        """Loads every adapter of the folder that is for this model. One that can't be used is logged and left out."""
        if self._folder is None:
            return
        try:
            found = await asyncio.to_thread(_manifests, self._folder)
        except OSError as error:
            self._log.error("adapters left out", problem=f"{self._folder} can't be read: {error.strerror}.")
            return
        for relative in found:
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
        if digest in self._loaded or self.is_moving(digest):
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

    async def _see_through(self, job: Coroutine[None, None, T]) -> T:
        task = asyncio.create_task(job)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        return await asyncio.shield(task)

    async def _take_out(self, digest: str) -> None:
        try:
            await self._engine.unload_adapter(digest)
        finally:
            self._moving.discard(digest)


def _manifests(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.json") if path.is_file())
