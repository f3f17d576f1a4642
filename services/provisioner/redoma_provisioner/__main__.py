"""Runs the provisioner service: `redoma-provisioner --config FILE`."""

import os

from redoma_kit.polling import poll_without_event_engine
from redoma_kit.tls_floor import require_tls_1_3


def main() -> None:
    """Runs the service; exits with status 1 and one sentence if it can't start."""
    require_tls_1_3(os.environ)
    poll_without_event_engine(os.environ)
    # Brings grpc in, which reads its settings at that moment.
    from redoma_provisioner.process import run

    run()


if __name__ == "__main__":
    main()
