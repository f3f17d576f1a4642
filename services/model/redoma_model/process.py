"""The model service's process: settings, logs, start, and its exit status."""

import os
import sys

import structlog

from redoma_kit.errors import DomainError
from redoma_kit.logs import configure_logs
from redoma_kit.polling import SWITCH_INTERVAL_S, run_service
from redoma_kit.server import AddressInUse
from redoma_kit.settings import settings_from_command_line
from redoma_kit.telemetry import Telemetry
from redoma_model.engine.hardware import share_cores
from redoma_model.errors import EngineStalled, ModelFileError
from redoma_model.server import ModelServer
from redoma_model.settings import ModelSettings

PROG = "redoma-model"


def run() -> None:
    """Runs the service. Exits with 0 after a drain, 1 when the model or the address can't be used or the engine died, 2
    when the settings are wrong."""
    settings = settings_from_command_line(ModelSettings, PROG, "Serves a language model over gRPC.")
    # The engine's thread asks for the interpreter between steps: it is not to wait long for the event loop.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    log = configure_logs(settings.log, "model")
    log.info("settings", **settings.model_dump(mode="json"))
    try:
        run_service(_serve(settings, log))
    except (ModelFileError, DomainError, AddressInUse, OSError) as error:
        sys.exit(f"{PROG}: {error}")
    except Exception:
        log.exception("the engine died")
        sys.exit(1)


async def _serve(settings: ModelSettings, log: structlog.stdlib.BoundLogger) -> None:
    telemetry = Telemetry("model", settings.metrics, settings.tracing)
    # Brings llama.cpp in, whose threading library reads its settings at that moment.
    share_cores(os.environ)
    from redoma_model.loading import LlamaModels

    try:
        await ModelServer(settings, LlamaModels(), telemetry, log).run()
    except EngineStalled:
        log.exception("an engine hangs")
        # A thread that hangs within the library can't be ended: leave without waiting for it.
        os._exit(1)
