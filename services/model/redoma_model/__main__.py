"""`redoma-model`: serves one model until SIGTERM."""

import os

from redoma_kit.polling import poll_without_event_engine
from redoma_kit.tls_floor import require_tls_1_3


def main() -> None:
    """Runs the service. Exits with 0 after a drain, 1 when it can't serve, 2 when the settings are wrong."""
    require_tls_1_3(os.environ)
    poll_without_event_engine(os.environ)
    # Brings grpc in, which reads its settings at that moment.
    from redoma_model.process import run

    run()


if __name__ == "__main__":
    main()
