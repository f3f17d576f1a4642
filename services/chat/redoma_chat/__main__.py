"""`redoma-chat`: runs the chat service."""

import os

from redoma_kit.polling import poll_without_event_engine
from redoma_kit.tls_floor import require_tls_1_3


def main() -> None:
    """Runs until SIGTERM or SIGINT; exits with 1 and one sentence when it can't start."""
    require_tls_1_3(os.environ)
    poll_without_event_engine(os.environ)
    # Brings grpc in, which reads its settings at that moment.
    from redoma_chat.process import run

    run()


if __name__ == "__main__":
    main()
