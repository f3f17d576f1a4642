"""The model service around a model that costs next to nothing. Run as `redoma-model` is.

Everything but llama.cpp is real. REDOMA_FAST_MODEL_STEP_S says how many seconds a step takes.
"""

import os
import sys

from redoma_kit.polling import SWITCH_INTERVAL_S, poll_without_event_engine, run_service
from redoma_kit.tls_floor import require_tls_1_3

STEP_VARIABLE = "REDOMA_FAST_MODEL_STEP_S"


def main() -> None:
    """Serves until SIGTERM."""
    require_tls_1_3(os.environ)
    poll_without_event_engine(os.environ)
    # Brings grpc in, which reads its settings at that moment.
    from redoma_kit.logs import configure_logs
    from redoma_kit.settings import settings_from_command_line
    from redoma_kit.telemetry import Telemetry
    from redoma_model.engine.backend import Backend, BackendLoader, Progress
    from redoma_model.server import ModelServer
    from redoma_model.settings import ModelSettings
    from tests.fakes.fast_backend import FastBackend

    settings = settings_from_command_line(ModelSettings, "fast-model", "Serves a model that costs nothing.")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    log = configure_logs(settings.log, "model")
    step_s = float(os.environ[STEP_VARIABLE])

    def loader(own: ModelSettings) -> BackendLoader:
        def load(progress: Progress) -> Backend:
            return FastBackend(own, step_s)

        return load

    async def serve() -> None:
        await ModelServer(settings, loader, Telemetry("model", settings.metrics, settings.tracing), log).run()

    run_service(serve())


if __name__ == "__main__":
    main()
