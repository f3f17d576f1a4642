"""Tables that must be complete: errors, policy, and the schema that migrations make."""

import importlib
import pkgutil
import re
import time
from pathlib import Path

import grpc
import structlog
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

import redoma_chat
from redoma.chat.v1 import content_pb2, conversation_pb2, message_pb2, openai_pb2
from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma.common.v1.usage_pb2 import FinishReason as WireFinishReason
from redoma_chat import errors
from redoma_chat.content_keys import ContentKeys
from redoma_chat.errors import CHAT_ERRORS, ModelUnreachable, refusal_of_model
from redoma_chat.inference import FinishReason
from redoma_chat.key_provider import LocalKeys
from redoma_chat.names import Owner
from redoma_chat.openai.errors import error_object
from redoma_chat.policy import CHAT_POLICY
from redoma_chat.server import MIGRATIONS, SCHEMA
from redoma_chat.store.content_keys import SqlContentKeys
from redoma_chat.store.databases import Databases
from redoma_chat.store.store import SqlStore
from redoma_chat.tables import METADATA
from redoma_kit.database import PLATFORM, Database
from redoma_kit.errors import DeadlineExceeded, DomainError, Failure, failure_of, reason_name
from redoma_kit.policy import EDGE, TENANT
from tests.fakes.former_release import fill

PROTO = Path(__file__).parents[3] / "proto/redoma/common/v1/error_reason.proto"


def subclasses(cls: type[DomainError]) -> set[type[DomainError]]:
    found = {cls}
    for sub in cls.__subclasses__():
        found |= subclasses(sub)
    return found


def test_every_exception_class_has_a_rule() -> None:
    for module in pkgutil.walk_packages(redoma_chat.__path__, "redoma_chat."):
        if not module.name.endswith("__main__") and "migrations" not in module.name:
            importlib.import_module(module.name)
    of_chat = {cls for cls in subclasses(DomainError) if cls.__module__.startswith("redoma_chat")}
    assert len(of_chat) > 10
    for cls in of_chat - {DomainError, errors.ModelRefusal}:
        assert cls in CHAT_ERRORS, cls
        error = cls.__new__(cls)
        DomainError.__init__(error, "message", {"field": "x"})
        failure = failure_of(error, CHAT_ERRORS)
        assert f"ERROR_REASON_{failure.reason}" in ErrorReason.DESCRIPTOR.values_by_name
        assert (failure.code is grpc.StatusCode.UNAVAILABLE) <= (failure.retry_after_s is not None)


def documented() -> dict[str, tuple[grpc.StatusCode, bool]]:
    """Gives what error_reason.proto says of each reason: its code, and whether RetryInfo comes with it."""
    code = r"  // ([A-Z_]+)(?:, with QuotaFailure[^.]*)?((?:, with RetryInfo)?)\..*\n"
    reason = code + r"(?:  //.*\n)*  ERROR_REASON_([A-Z_]+) ="
    found = re.findall(reason, PROTO.read_text())
    return {name: (grpc.StatusCode[code], bool(retry)) for code, retry, name in found}


# What others than the model service refuse calls with, or the model service refuses operators' calls with.
NOT_THE_MODELS = {
    "ADAPTER_INCOMPATIBLE",
    "MEMORY_INSUFFICIENT",
    "MODEL_FILE_INVALID",
    "ENGINE_STALLED",
    "INPUT_REFUSED",
    "CREDENTIAL_EXPIRED",
    "CREDENTIAL_REVOKED",
    "TENANT_MISMATCH",
    "TENANT_DISABLED",
    "RESOURCE_NOT_FOUND",
    "RESOURCE_EXISTS",
    "MODEL_UNREACHABLE",
    "STORAGE_UNAVAILABLE",
    "STATE_CONFLICT",
    "SERVICE_UNREACHABLE",
    "REQUEST_TOO_LARGE",
    "QUOTA_EXCEEDED",
    "QUOTA_UNAVAILABLE",
    "ETAG_MISMATCH",
    "SOURCE_DENIED",
    "SIGN_IN_SLOWED",
    "IDENTITY_PROVIDER_UNAVAILABLE",
    "CONTENT_STORAGE_OFF",
    "RESOURCE_IN_USE",
    "CONTENT_UNREADABLE",
    "GRANT_UNKNOWN",
    "GRANT_REDEEMED",
    "GRANT_EXPIRED",
    "GRANT_REVOKED",
    "SITE_UNREACHABLE",
    "NETWORK_DRIVER_REFUSED",
    "NETWORK_DRIVER_UNAVAILABLE",
}


def test_what_the_model_says_keeps_its_code_and_reason() -> None:
    reasons = documented()
    assert {f"ERROR_REASON_{name}" for name in reasons} == set(ErrorReason.DESCRIPTOR.values_by_name) - {
        "ERROR_REASON_UNSPECIFIED"
    }
    for reason in reasons.keys() - NOT_THE_MODELS:
        code, retries = reasons[reason]
        passed = failure_of(refusal_of_model(code, Failure(code, reason, "m", {"a": "b"})), CHAT_ERRORS)
        assert (passed.code, passed.reason) == (code, reason)
        assert (passed.retry_after_s is not None) == retries, reason


def test_openais_type_of_every_reason_is_one_of_its_class_of_http_status() -> None:
    ours = {"UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "DATA_LOSS"}
    for reason, (code, _) in documented().items():
        error = error_object(Failure(code, reason, "m", {}))["error"]
        assert (error["type"] == "server_error") == (code.name in ours | {"ALREADY_EXISTS"}), reason
        assert error["code"]


def test_status_without_our_details_is_the_links_fault() -> None:
    assert isinstance(refusal_of_model(grpc.StatusCode.INTERNAL, None), ModelUnreachable)
    assert isinstance(refusal_of_model(grpc.StatusCode.DEADLINE_EXCEEDED, None), DeadlineExceeded)
    newer = refusal_of_model(grpc.StatusCode.ABORTED, Failure(grpc.StatusCode.ABORTED, "OF_A_NEWER_RELEASE", "m", {}))
    assert failure_of(newer, CHAT_ERRORS).reason == reason_name(ErrorReason.ERROR_REASON_INTERNAL)


def test_every_rpc_is_in_the_policy_table_for_the_edge_with_a_scope() -> None:
    services = [
        service
        for module in (conversation_pb2, message_pb2, openai_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    methods = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    of_people = {method: rule for method, rule in CHAT_POLICY.items() if "ContentService" not in method}
    assert methods == set(of_people)
    assert len(services) == 3
    for rule in of_people.values():
        assert rule.peers == EDGE
        assert rule.identity
        assert rule.bound_method
        assert rule.all_scopes


def test_content_service_is_for_the_tenant_services_certificate_alone() -> None:
    (service,) = content_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods:
        rule = CHAT_POLICY[f"/{service.full_name}/{method.name}"]
        assert rule.peers == TENANT
        assert not rule.identity


def test_finish_reasons_are_the_wires() -> None:
    names = {name.removeprefix("FINISH_REASON_") for name in WireFinishReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert {reason.value for reason in FinishReason} == names


async def test_migrations_make_the_tables(database_url: str) -> None:
    database = Database(database_url, structlog.stdlib.get_logger(), SCHEMA)
    await database.upgrade(MIGRATIONS)
    await database.upgrade(MIGRATIONS)

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), METADATA))

    async with database.transaction(PLATFORM) as session:
        assert await (await session.connection()).run_sync(differences) == []
    await database.close()


ACME = Owner("acme", "tenants/acme/apiKeys/one")
TIMES = {"create_time_us": 5, "update_time_us": 6}
WHOSE = {"tenant": ACME.tenant, "principal": ACME.principal, "model": "m"}
CONVERSATION = WHOSE | TIMES | {"id": "c1", "title": "Título", "title_folded": "titulo", "system_prompt": "Be brief."}
MESSAGE = WHOSE | TIMES | {"id": "m1", "conversation_id": "c1", "parent_id": "", "role": "USER", "content": "Olá 👋"}
COUNTS = dict.fromkeys(("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"), 0)


async def test_what_a_former_release_kept_is_still_there(database_url: str) -> None:
    """Of the release before tenancy: a conversation and a message, read by the stores of this one."""
    log = structlog.stdlib.get_logger()
    database = Database(database_url, log, SCHEMA)
    await database.upgrade(MIGRATIONS, "0002")
    sampling = '{"temperature": 0.5, "stop": ["."], "logit_bias": {}}'
    conversation = CONVERSATION | {"sampling": sampling, "request_id": None, "latest_message_id": "m1"}
    rest = {"content_folded": "ola", "reasoning": "", "state": "COMPLETE", "finish_reason": None}
    message = MESSAGE | COUNTS | rest | {"response_format": None}
    await fill(database_url, SCHEMA, {"conversations": [conversation], "messages": [message]})
    await database.upgrade(MIGRATIONS)
    keys = ContentKeys(LocalKeys((b"k" * 32,)), time.monotonic, log)
    store = SqlStore(Databases(database, None, log), SqlContentKeys(keys, lambda: 7))
    kept = await store.get_conversation(ACME, "c1")
    assert kept is not None
    assert (kept.title, kept.system_prompt, kept.create_time_us) == ("Título", "Be brief.", 5)
    assert (kept.sampling.temperature, kept.sampling.stop) == (0.5, (".",))
    (said,) = await store.list_messages(ACME, "c1", "", 10)
    assert (said.id, said.content, said.update_time_us) == ("m1", "Olá 👋", 6)
    assert await store.get_conversation(Owner("globex", ACME.principal), "c1") is None
    await database.close()
