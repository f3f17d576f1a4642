"""Puts the chat service together."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from redoma.chat.v1.conversation_pb2_grpc import add_ConversationServiceServicer_to_server
from redoma.chat.v1.message_pb2_grpc import add_ChatServiceServicer_to_server
from redoma.chat.v1.openai_pb2_grpc import add_OpenAIServiceServicer_to_server
from redoma_chat.answers import Answers
from redoma_chat.checks.source import CheckSource
from redoma_chat.conversations import Conversations
from redoma_chat.endings import Endings
from redoma_chat.errors import CHAT_ERRORS
from redoma_chat.guarded_model import GuardedModel
from redoma_chat.health import HealthMirror
from redoma_chat.ids import IdSource
from redoma_chat.measurements import AnswerMeasurements
from redoma_chat.model_channel import GrpcModelChannel
from redoma_chat.openai.errors import openai_error_trailer
from redoma_chat.policy import CHAT_POLICY
from redoma_chat.servicers.chat import ChatServicer
from redoma_chat.servicers.context import Deadlines
from redoma_chat.servicers.conversation import ConversationServicer
from redoma_chat.servicers.openai import OpenAIServicer
from redoma_chat.settings import ChatSettings
from redoma_chat.store import SqlStore
from redoma_chat.tenant_channel import GrpcTenantChannel
from redoma_kit.channel import open_channel
from redoma_kit.database import Database
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.telemetry import Telemetry

MIGRATIONS = Path(__file__).parent / "migrations"


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
        self._database = Database(settings.database_url, log)
        self._store = SqlStore(self._database)
        self._model_channel = open_channel(settings.model, settings.tls, settings.max_message_bytes)
        self._tenant_channel = open_channel(settings.tenant, settings.tls, settings.max_message_bytes)
        model = GrpcModelChannel(self._model_channel, self.telemetry)
        checks = CheckSource(GrpcTenantChannel(self._tenant_channel, self.telemetry), model, clock)
        guarded = GuardedModel(model, checks, AnswerMeasurements(self.telemetry), clock)
        ids = IdSource(now_s)
        deadlines = Deadlines(settings.max_stream_s, clock)
        verifier = IdentityVerifier(settings.jwks_file, audience="chat", now=now_s)
        self.grpc = GrpcServer(
            settings, CHAT_POLICY, CHAT_ERRORS, verifier, self.telemetry, log, extra_trailers=openai_error_trailer
        )
        conversations = ConversationServicer(Conversations(self._store, ids, self._now_us))
        self.grpc.add(
            lambda server: add_ConversationServiceServicer_to_server(conversations, server),
            "redoma.chat.v1.ConversationService",
        )
        drain = self.grpc.drain
        self._endings = Endings(log)
        answers = Answers(self._store, guarded, ids, self._endings, self._now_us, lambda: drain.draining, log)
        chat = ChatServicer(answers, deadlines)
        self.grpc.add(lambda server: add_ChatServiceServicer_to_server(chat, server), "redoma.chat.v1.ChatService")
        openai = OpenAIServicer(guarded, model, ids, deadlines, now_s)
        self.grpc.add(
            lambda server: add_OpenAIServiceServicer_to_server(openai, server), "redoma.chat.v1.OpenAIService"
        )
        self._health = HealthMirror(self.grpc, self._model_channel, self._store.ping)

    async def start(self) -> None:
        """Brings the schema up to date, ends what a killed process left streaming, and serves.

        Raises:
            SchemaNotReady: The database can't be used.
            AddressInUse: The address can't be bound.
            OSError: A file of the service's identity can't be read.
        """
        await self._database.upgrade(MIGRATIONS)
        interrupted = await self._store.interrupt_streaming(self._now_us())
        if interrupted:
            self._log.warning("answers of a process that died are partial now", answers=interrupted)
        await self.grpc.start()
        await self._health.start()

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
            self._health.stop,
            self._endings.stop,
            self._model_channel.close,
            self._tenant_channel.close,
            self._database.close,
        )
