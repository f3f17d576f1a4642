"""The chat service's process: settings, logs, start, and its exit status."""

import sys
from collections.abc import Mapping

import structlog

from redoma_chat.key_provider import KeyProviderUnusable
from redoma_chat.server import SCHEMA, ChatServer
from redoma_chat.settings import ChatSettings
from redoma_kit.database import SchemaNotReady, roles_script
from redoma_kit.errors import StorageUnavailable
from redoma_kit.logs import configure_logs
from redoma_kit.polling import SWITCH_INTERVAL_S, run_service
from redoma_kit.server import AddressInUse
from redoma_kit.settings import Action, settings_from_command_line

ACTIONS: Mapping[str, Action[ChatSettings]] = {
    "--print-database-roles": Action(
        "print the SQL that prepares PostgreSQL for a login that may not make roles",
        lambda settings, _: roles_script(settings.database_url, SCHEMA),
    )
}


def run() -> None:
    """Runs until SIGTERM or SIGINT; exits with 1 and one sentence when it can't start."""
    settings = settings_from_command_line(
        ChatSettings, "redoma-chat", "Conversations and the OpenAI façade in front of a private model.", actions=ACTIONS
    )
    # What the database's threads bring is not to wait long for the event loop.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    log = configure_logs(settings.log, "chat")
    sys.exit(run_service(_serve(settings, log)))


async def _serve(settings: ChatSettings, log: structlog.stdlib.BoundLogger) -> int:
    try:
        server = ChatServer(settings, log)
        await server.start()
    except (AddressInUse, KeyProviderUnusable, OSError, SchemaNotReady, StorageUnavailable) as error:
        log.error("can't start", cause=str(error))
        return 1
    await server.serve_until_stopped()
    return 0
