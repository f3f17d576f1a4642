"""Puts the chat service together."""

import os
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog

from redoma.chat.v1.content_pb2_grpc import add_ContentServiceServicer_to_server
from redoma.chat.v1.conversation_pb2_grpc import add_ConversationServiceServicer_to_server
from redoma.chat.v1.message_pb2_grpc import add_ChatServiceServicer_to_server
from redoma.chat.v1.openai_pb2_grpc import add_OpenAIServiceServicer_to_server
from redoma_chat.answers import Answers
from redoma_chat.checks.source import CheckSource
from redoma_chat.content import Content
from redoma_chat.content_keys import ContentKeys
from redoma_chat.content_storage import ContentStorage
from redoma_chat.conversations import Conversations
from redoma_chat.endings import Endings
from redoma_chat.errors import CHAT_ERRORS
from redoma_chat.guarded_model import GuardedModel
from redoma_chat.health import HealthMirror
from redoma_chat.ids import IdSource
from redoma_chat.key_provider import open_key_provider
from redoma_chat.measurements import AnswerMeasurements, ContentMeasurements
from redoma_chat.meter_channel import GrpcMeter
from redoma_chat.metering.metered_calls import MeteredCalls
from redoma_chat.metering.running_calls import RunningCalls
from redoma_chat.metering.settlements import Settlements
from redoma_chat.model_channel import GrpcModelChannel
from redoma_chat.openai.errors import openai_error_trailer
from redoma_chat.placement import Placement
from redoma_chat.policy import CHAT_POLICY
from redoma_chat.retention import Retention
from redoma_chat.revocations import Revocations
from redoma_chat.sealing import Sealing
from redoma_chat.servicers.chat import ChatServicer
from redoma_chat.servicers.content import ContentServicer
from redoma_chat.servicers.context import Deadlines
from redoma_chat.servicers.conversation import ConversationServicer
from redoma_chat.servicers.openai import OpenAIServicer
from redoma_chat.settings import ChatSettings
from redoma_chat.store.content_keys import SqlContentKeys
from redoma_chat.store.databases import Databases
from redoma_chat.store.outbox import SqlOutbox
from redoma_chat.store.store import SqlStore
from redoma_chat.tenant_channel import GrpcTenantChannel
from redoma_kit.channel import open_channel
from redoma_kit.database import Database
from redoma_kit.identity import IdentityVerifier
from redoma_kit.periodic import Periodic
from redoma_kit.server import GrpcServer
from redoma_kit.telemetry import Telemetry

MIGRATIONS = Path(__file__).parent / "migrations"
# Of PostgreSQL.
SCHEMA = "redoma_chat"
# Between two looks for answers of processes that died.
SWEEP_INTERVAL_S = 2.0
# Between two attempts to open the private database, and two looks for what is not sealed.
OPEN_INTERVAL_S = 10.0
SEALING_INTERVAL_S = 3_600.0


class ChatServer:
    """The chat service: its server, its store and its channels to the model and the tenant service."""

    def __init__(
        self,
        settings: ChatSettings,
        log: structlog.stdlib.BoundLogger,
        clock: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._now_us: Callable[[], int] = lambda: int(now_s() * 1_000_000)
        self.telemetry = Telemetry("chat", settings.metrics, settings.tracing)
        self._databases = _open_databases(settings, log)
        content_keys = ContentKeys(open_key_provider(settings.key_provider, os.environ), clock, log)
        self._store = SqlStore(self._databases, SqlContentKeys(content_keys, self._now_us))
        self._egress = open_channel(settings.egress, settings.tls, settings.max_message_bytes)
        self._tenant_channel = open_channel(settings.tenant, settings.tls, settings.max_message_bytes)
        model = GrpcModelChannel(self._egress, self.telemetry)
        tenants = GrpcTenantChannel(self._tenant_channel, self.telemetry)
        checks = CheckSource(tenants, model, clock)
        placement = Placement(checks, self._store, self._databases.has_private, log)
        meter = GrpcMeter(self._tenant_channel, self.telemetry)
        self._running = RunningCalls(meter, clock, log)
        self._settlements = Settlements(meter, SqlOutbox(self._databases, self._now_us), log)
        self._revocations = Revocations(meter, self._running, log)
        calls = MeteredCalls(meter, self._running, self._settlements, clock)
        guarded = GuardedModel(model, checks, calls, AnswerMeasurements(self.telemetry), clock)
        ids = IdSource(now_s)
        deadlines = Deadlines(settings.max_stream_s, clock)
        verifier = IdentityVerifier(settings.jwks_file, audience="chat", now=now_s)
        self.grpc = GrpcServer(
            settings, CHAT_POLICY, CHAT_ERRORS, verifier, self.telemetry, log, extra_trailers=openai_error_trailer
        )
        conversations = ConversationServicer(Conversations(self._store, placement, ids, self._now_us))
        self.grpc.add(
            partial(add_ConversationServiceServicer_to_server, conversations),
            "redoma.chat.v1.ConversationService",
        )
        drain = self.grpc.drain
        self._endings = Endings(log)
        answers = Answers(
            self._store,
            placement,
            guarded,
            ids,
            self._endings,
            self._settlements,
            self._now_us,
            lambda: drain.draining,
            log,
        )
        chat = ChatServicer(answers, deadlines)
        self.grpc.add(partial(add_ChatServiceServicer_to_server, chat), "redoma.chat.v1.ChatService")
        openai = OpenAIServicer(guarded, model, ids, deadlines, now_s)
        self.grpc.add(partial(add_OpenAIServiceServicer_to_server, openai), "redoma.chat.v1.OpenAIService")
        content = ContentServicer(Content(self._store, self._running, self._databases.scrub, log))
        self.grpc.add(partial(add_ContentServiceServicer_to_server, content), "redoma.chat.v1.ContentService")
        self._health = HealthMirror(self.grpc, self._egress, self._store.ping, log)
        self._background = self._work_of_its_own(settings, tenants)

    def _work_of_its_own(self, settings: ChatSettings, tenants: GrpcTenantChannel) -> tuple[Periodic, ...]:
        databases, store, log = self._databases, self._store, self._log
        sealing = Sealing(store, lambda: databases.scrub(rewrite=True), log)
        measurements = ContentMeasurements(self.telemetry)
        retention = Retention(tenants, store, databases.scrub, self._now_us, measurements, log)
        # Replicas that were started together do not sweep together for ever.
        interval_s = settings.retention_interval_s * random.uniform(0.9, 1.1)  # noqa: S311 (spreads load)
        return (
            Periodic("sweep", SWEEP_INTERVAL_S, self._interrupt_all, log),
            Periodic("private database", OPEN_INTERVAL_S, self._open_private, log),
            Periodic("sealing", SEALING_INTERVAL_S, sealing.run, log),
            Periodic("retention", interval_s, retention.sweep, log),
        )

    async def start(self) -> None:
        """Brings the schema up to date, ends what a killed process left streaming, and serves.

        Raises:
            SchemaNotReady: The database can't be used.
            AddressInUse: The address can't be bound.
            OSError: A file of the service's identity can't be read.
        """
        await self._databases.of(ContentStorage.PUBLIC).upgrade(MIGRATIONS)
        await self._interrupt(ContentStorage.PUBLIC)
        await self._open_private()
        await self.grpc.start()
        await self._health.start()
        self._settlements.start()
        self._revocations.start()
        for work in self._background:
            work.start()

    async def _interrupt_all(self) -> None:
        for storage in self._store.usable_storages():
            await self._interrupt(storage)

    async def _interrupt(self, storage: ContentStorage) -> None:
        interrupted = await self._store.interrupt_streaming(storage, self._now_us())
        if interrupted:
            self._log.warning("answers of a process that died are partial now", answers=interrupted)

    async def _open_private(self) -> None:
        await self._databases.open_private(MIGRATIONS, self._interrupt)

    async def serve_until_stopped(self) -> None:
        """Serves until SIGTERM or SIGINT, drains, and closes everything."""
        await self.grpc.serve_until_stopped(*self._cleanups())

    async def stop(self, grace_s: float) -> None:
        """Drains for at most `grace_s` seconds and closes everything."""
        await self.grpc.stop(grace_s)
        for cleanup in self._cleanups():
            await cleanup()

    def _cleanups(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        return (
            *(work.stop for work in self._background),
            self._health.stop,
            self._revocations.stop,
            self._running.stop,
            self._endings.stop,
            self._settlements.stop,
            self._egress.close,
            self._tenant_channel.close,
            self._databases.close,
        )


def _open_databases(settings: ChatSettings, log: structlog.stdlib.BoundLogger) -> Databases:
    connections, private_url = settings.database_connections, settings.private_database_url
    public = Database(settings.database_url, log, SCHEMA, connections)
    private = None if private_url is None else Database(private_url, log, SCHEMA, connections)
    return Databases(public, private, log)
