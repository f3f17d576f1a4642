"""The chat service's process: settings, logs, start, and its exit status."""

import asyncio
import sys

import structlog

from redoma_chat.server import ChatServer
from redoma_chat.settings import ChatSettings
from redoma_kit.database import SchemaNotReady
from redoma_kit.errors import StorageUnavailable
from redoma_kit.logs import configure_logs
from redoma_kit.server import AddressInUse
from redoma_kit.settings import settings_from_command_line


def run() -> None:
    """Runs until SIGTERM or SIGINT; exits with 1 and one sentence when it can't start."""
    settings = settings_from_command_line(
        ChatSettings, "redoma-chat", "Conversations and the OpenAI façade in front of a private model."
    )
    log = configure_logs(settings.log, "chat")
    sys.exit(asyncio.run(_serve(settings, log)))


async def _serve(settings: ChatSettings, log: structlog.stdlib.BoundLogger) -> int:
    try:
        server = ChatServer(settings, log)
        await server.start()
    except (AddressInUse, OSError, SchemaNotReady, StorageUnavailable) as error:
        log.error("can't start", cause=str(error))
        return 1
    await server.serve_until_stopped()
    return 0
