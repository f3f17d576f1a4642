"""Calls the edge as a person or a script would: one channel, one API key."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import grpc

from redoma.chat.v1.conversation_pb2_grpc import ConversationServiceStub
from redoma.chat.v1.message_pb2_grpc import ChatServiceStub
from redoma.chat.v1.openai_pb2_grpc import OpenAIServiceStub
from redoma.model.v1.engine_pb2_grpc import EngineServiceStub
from redoma.provisioner.v1.edge_pb2_grpc import EdgeServiceStub
from redoma.provisioner.v1.network_pb2_grpc import NetworkServiceStub
from redoma.provisioner.v1.operation_pb2_grpc import OperationServiceStub
from redoma.tenant.v1.api_key_pb2_grpc import ApiKeyServiceStub
from redoma.tenant.v1.audit_pb2_grpc import AuditServiceStub
from redoma.tenant.v1.privacy_pb2_grpc import PrivacyServiceStub
from redoma.tenant.v1.quota_pb2_grpc import QuotaServiceStub
from redoma.tenant.v1.tenant_pb2_grpc import TenantServiceStub
from redoma.tenant.v1.usage_pb2_grpc import UsageServiceStub
from redoma.tenant.v1.user_pb2_grpc import UserServiceStub
from redoma_cli.errors import CliError, error_from_rpc
from redoma_cli.local.home import Home
from redoma_cli.local.ports import LOOPBACK

CALL_TIMEOUT_S = 30.0
MAX_MESSAGE_BYTES = 16 << 20
DEFAULT_PORT = 8080
ADMIN = "admin"
# What can be sent in a header; whether it is a key is for the other side to say.
SENDABLE_KEY = re.compile(r"[!-~]+")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Demo:
    """What `redoma up` left in demo.json for other programs.

    Attributes:
        edge: URL of the edge.
        admin_key: Key of the platform's administrator.
        api_keys: A key of each demo tenant, by tenant id.
    """

    edge: str
    admin_key: str
    api_keys: Mapping[str, str]

    @property
    def port(self) -> int:
        """The edge's port."""
        return urlsplit(self.edge).port or 0


def read_demo(home: Home) -> Demo | None:
    """Reads demo.json; None if there is none that can be read."""
    try:
        content = json.loads(home.demo_file.read_text())
        keys = {str(entry["id"]): entry["api_key"] for entry in content["tenants"]}
        demo = Demo(str(content["edge"]), content["admin_key"], keys)
        whole = demo.port != 0 and all(SENDABLE_KEY.fullmatch(key) for key in (demo.admin_key, *keys.values()))
        return demo if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def choose_edge(named: str | None, demo: Demo | None, environ: Mapping[str, str]) -> str:
    """Gives the edge's URL: the one named, else the local site's, else the local default."""
    return named or (demo.edge if demo else f"http://{LOOPBACK}:{environ.get('REDOMA_PORT') or DEFAULT_PORT}")


def choose_key(named: str | None, demo: Demo | None, role: str) -> str:
    """Gives the key named, else the local site's: the admin's for role `admin`, else the tenant's of that id, or any's.

    Raises:
        CliError: There is none, or the one named can't be one.
    """
    if named:
        if not SENDABLE_KEY.fullmatch(named):
            mend = "A key looks like rdm_…; make one with: redoma key create TENANT"
            raise CliError("The API key given holds characters that no key has.", mend)
        return named
    if demo is not None:
        key = demo.admin_key if role == ADMIN else demo.api_keys.get(role) or next(iter(demo.api_keys.values()), "")
        if key:
            return key
    raise CliError("No API key is given.", "Pass --key, set REDOMA_API_KEY, or run `redoma up` on this machine.")


class EdgeClient:
    """The services that the edge offers, called with one key."""

    def __init__(self, edge: str, key: str) -> None:
        self.edge = edge
        address = urlsplit(edge if "//" in edge else f"http://{edge}")
        if address.scheme not in ("http", "https") or not address.hostname:
            raise CliError(f"{edge} is not the URL of an edge.", "Give one such as http://127.0.0.1:8080")
        target = f"{address.hostname}:{address.port or (443 if address.scheme == 'https' else 80)}"
        options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.enable_retries", 0)]
        if address.scheme == "https":
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
        else:
            self._channel = grpc.insecure_channel(target, options=options)
        channel = grpc.intercept_channel(self._channel, _KeySender(key))
        self.conversations = ConversationServiceStub(channel)
        self.chat = ChatServiceStub(channel)
        self.openai = OpenAIServiceStub(channel)
        self.tenants = TenantServiceStub(channel)
        self.keys = ApiKeyServiceStub(channel)
        self.users = UserServiceStub(channel)
        self.privacy = PrivacyServiceStub(channel)
        self.quotas = QuotaServiceStub(channel)
        self.engine = EngineServiceStub(channel)
        self.network = NetworkServiceStub(channel)
        self.operations = OperationServiceStub(channel)
        self.proxies = EdgeServiceStub(channel)
        self.usage = UsageServiceStub(channel)
        self.audit = AuditServiceStub(channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    @contextmanager
    def telling(self, mends: Mapping[str, str] | None = None) -> Iterator[None]:
        """Turns a failed call inside into what a person is told; `mends` are the command's own, by reason.

        Raises:
            CliError: A call failed.
        """
        try:
            yield
        except grpc.RpcError as error:
            raise error_from_rpc(error, self.edge, mends) from error


class _Details(grpc.ClientCallDetails):
    """A call's details with metadata of ours."""

    def __init__(self, former: grpc.ClientCallDetails, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        self.method = former.method
        self.timeout = former.timeout
        self.metadata = metadata
        self.credentials = former.credentials
        self.wait_for_ready = former.wait_for_ready
        self.compression = former.compression


class _KeySender(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Sends the key with each call."""

    def __init__(self, key: str) -> None:
        self._key = key

    def _with_key(self, details: grpc.ClientCallDetails) -> grpc.ClientCallDetails:
        metadata = (*(details.metadata or ()), ("authorization", f"Bearer {self._key}"))
        return _Details(details, metadata)

    def intercept_unary_unary(
        self, continuation: Callable[[grpc.ClientCallDetails, Any], T], details: grpc.ClientCallDetails, request: Any
    ) -> T:
        return continuation(self._with_key(details), request)

    def intercept_unary_stream(
        self, continuation: Callable[[grpc.ClientCallDetails, Any], T], details: grpc.ClientCallDetails, request: Any
    ) -> T:
        return continuation(self._with_key(details), request)
