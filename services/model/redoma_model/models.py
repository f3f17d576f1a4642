"""The models of one process, by id and by alias: found for a caller, loaded, unloaded and renamed while others run."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing

import structlog

from redoma_kit.errors import ResourceExists, ResourceNotFound
from redoma_model.engine.backend import Backend, BackendLoader, Progress
from redoma_model.errors import ModelFileError, ModelFileInvalid, ModelNotFound, StateConflict
from redoma_model.served import ServedModel
from redoma_model.settings import ModelSettings

# Is told how far a model is loaded, 0 to 1; from any thread.
Report = Callable[[float], None]
# Makes a model of its settings; its engine is not started yet.
ModelMaker = Callable[[ModelSettings, Report], ServedModel]


class Models:
    """The registry. Lives on the event loop."""

    def __init__(self, settings: ModelSettings, make: ModelMaker, log: structlog.stdlib.BoundLogger) -> None:
        """Makes the models that `settings` name; `start` begins to load them."""
        self._make = make
        self._log = log
        self.default = make(settings, _ignore)
        more = (
            settings.for_model(one.file, one.name, one.slots, one.kv_cells, one.context_tokens)
            for one in settings.models
        )
        self._models = {model.id: model for model in (self.default, *(make(one, _ignore) for one in more))}
        self._aliases = dict(settings.aliases)
        # Out of service and not freed yet.
        self._leaving: dict[str, ServedModel] = {}
        # Ids of models that are on their way in.
        self._coming: set[str] = set()
        # One after the other: each is measured against the memory that is free when it begins.
        self._load_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None

    # The life of the process.

    def start(self) -> None:
        """Starts the engines, which begin to load their models."""
        for model in self._models.values():
            self._start(model)

    async def become_ready(self) -> None:
        """Waits until the models of the start are loaded.

        Raises:
            ModelFileError: One can't be loaded.
            MemoryInsufficient: One would not fit the memory that is free.
        """
        for model in list(self._models.values()):
            await model.load()

    async def wait_failed(self) -> None:
        """Waits until an engine dies of a defect, and raises what it died of."""
        await self._failed.wait()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Ends what runs and frees all models."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(model.engine.stop() for model in self._models.values()))

    # What callers see.

    def find(self, name: str, allowed: Sequence[str]) -> ServedModel:
        """Gives the model of an id or an alias; the default model for an empty one.

        Args:
            name: The id or alias.
            allowed: Ids of the models that the caller may use; empty is all. An alias is resolved before it is asked.

        Raises:
            ModelNotFound: There is none, or the caller may not know that there is.
        """
        model = self._models.get(self._aliases.get(name, name)) if name else self.default
        if model is None or not _may_use(model, allowed):
            raise ModelNotFound(name or self.default.id, tuple(one.id for one in self.visible(allowed)))
        return model

    def visible(self, allowed: Sequence[str]) -> list[ServedModel]:
        """Lists the models that the caller may use, in the order of their ids."""
        return [model for _, model in sorted(self._models.items()) if _may_use(model, allowed)]

    # What operators see.

    def listed(self) -> list[ServedModel]:
        """Lists all models: the default one, then the others in the order of their ids."""
        return [self.default, *(model for model in self.visible(()) if model is not self.default)]

    def holding(self) -> list[ServedModel]:
        """Lists the models that may hold something of a tenant: all, and those that are not freed yet."""
        return [*self._models.values(), *self._leaving.values()]

    @property
    def aliases(self) -> Mapping[str, str]:
        """The id of the model that each alias stands for."""
        return self._aliases

    async def load(self, settings: ModelSettings) -> AsyncGenerator[float | ServedModel, None]:
        """Loads a model and takes it into service: gives its progress, 0 to 1, and the model at the end.

        Close the iterator when nobody reads it any more: loading then ends.

        Raises:
            ResourceExists: A model or an alias has that id.
            ModelFileInvalid: The file can't be loaded.
            MemoryInsufficient: It would not fit the memory that is free.
        """
        model_id = settings.model_id
        self._check_free(model_id)
        if model_id in self._aliases:
            raise ResourceExists(f"The alias {model_id}")
        self._coming.add(model_id)
        try:
            async with self._load_lock, aclosing(self._bring_in(settings)) as events:
                async for event in events:
                    yield event
        finally:
            self._coming.discard(model_id)

    async def unload(self, model_id: str, patience_s: float) -> None:
        """Takes a model and its aliases out of service at once; returns when its calls have ended and it is freed.

        A caller who leaves early leaves the rest to go on.

        Args:
            model_id: Which.
            patience_s: How long its calls may go on; they are ended then.

        Raises:
            ModelNotFound: There is none of that id.
            StateConflict: It is the default model.
        """
        model = self._models.get(model_id)
        if model is None:
            raise ModelNotFound(model_id, tuple(sorted(self._models)))
        if model is self.default:
            raise StateConflict(
                f"{model_id} is the model that the service was started with, and stays.", {"state": "DEFAULT"}
            )
        del self._models[model_id]
        self._aliases = {alias: stands_for for alias, stands_for in self._aliases.items() if stands_for != model_id}
        self._leaving[model_id] = model
        await asyncio.shield(self._keep(self._retire(model, patience_s)))

    def set_alias(self, alias: str, model_id: str) -> None:
        """Makes a name stand for a model, in place of what it stood for.

        Raises:
            ModelNotFound: There is no model of that id.
            ResourceExists: A model has the alias as its id.
        """
        if model_id not in self._models:
            raise ModelNotFound(model_id, tuple(sorted(self._models)))
        self._check_free(alias)
        self._aliases[alias] = model_id

    def delete_alias(self, alias: str) -> None:
        """Takes an alias away.

        Raises:
            ResourceNotFound: There is none of that name.
        """
        if self._aliases.pop(alias, None) is None:
            raise ResourceNotFound(f"The alias {alias}")

    def _check_free(self, name: str) -> None:
        if name in self._models or name in self._leaving or name in self._coming:
            raise ResourceExists(f"The model {name}")

    def _start(self, model: ServedModel) -> None:
        model.engine.start()
        self._keep(self._watch(model))

    async def _bring_in(self, settings: ModelSettings) -> AsyncGenerator[float | ServedModel, None]:
        progress = _Progress(asyncio.get_running_loop())
        model = self._make(settings, progress.report)
        in_service = False
        try:
            self._start(model)
            loading = asyncio.create_task(model.load())
            try:
                async for part in progress.until(loading):
                    yield part
                await loading
            except ModelFileError as error:
                raise ModelFileInvalid(settings.file.name, str(error)) from error
            finally:
                loading.cancel()
            self._models[model.id] = model
            in_service = True
            self._log.info("model loaded", model=model.id)
            yield model
        finally:
            if not in_service:
                await model.engine.stop()

    async def _watch(self, model: ServedModel) -> None:
        try:
            await model.engine.wait_ended()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._failure = error
            self._failed.set()

    async def _retire(self, model: ServedModel, patience_s: float) -> None:
        try:
            async with asyncio.timeout(patience_s):
                await model.wait_unused()
        except TimeoutError:
            self._log.warning("ending what is left of an unloaded model", model=model.id)
        finally:
            await model.engine.stop()
            del self._leaving[model.id]
        self._log.info("model unloaded", model=model.id)

    def _keep(self, job: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Progress:
    """The progress of loading on its way from the engine's thread to the coroutine that tells it; the latest counts."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._part = 0.0
        self._changed = asyncio.Event()

    def report(self, part: float) -> None:
        """Takes the progress, from any thread."""
        self._loop.call_soon_threadsafe(self._take, part)

    async def until(self, loading: "asyncio.Task[None]") -> AsyncIterator[float]:
        """Gives each progress, until `loading` ends."""
        loading.add_done_callback(lambda _: self._changed.set())
        while not loading.done():
            await self._changed.wait()
            self._changed.clear()
            if not loading.done():
                yield self._part

    def _take(self, part: float) -> None:
        self._part = part
        self._changed.set()


def reporting(load: BackendLoader, report: Report) -> BackendLoader:
    """Gives a loader that tells `report` its progress too."""

    def loading(progress: Progress) -> Backend:
        def tell(part: float) -> bool:
            report(part)
            return progress(part)

        return load(tell)

    return loading


def _may_use(model: ServedModel, allowed: Sequence[str]) -> bool:
    return not allowed or model.id in allowed


def _ignore(part: float) -> None:
    pass
