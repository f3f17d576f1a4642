"""Every exception the kit defines has a rule, and every reason is documented with an example."""

from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

import redoma_kit.errors
from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma_kit.errors import (
    KIT_ERRORS,
    MAX_MESSAGE_BYTES,
    DomainError,
    ErrorRule,
    Failure,
    InvalidField,
    Violation,
    failure_from_status,
    failure_of,
)

KIT_CLASSES = [
    value
    for value in vars(redoma_kit.errors).values()
    if isinstance(value, type) and issubclass(value, DomainError) and value is not DomainError
]


@pytest.mark.parametrize("cls", KIT_CLASSES, ids=lambda cls: cls.__name__)
def test_every_exception_has_a_rule(cls: type[DomainError]) -> None:
    assert cls in KIT_ERRORS


def test_service_rule_wins_over_the_kit_and_subclasses_inherit() -> None:
    class WrongTemperature(InvalidField):
        pass

    failure = failure_of(WrongTemperature("temperature", "is hot"), {})
    assert failure.reason == "INVALID_FIELD"
    rule = KIT_ERRORS[redoma_kit.errors.ShuttingDown]
    assert failure_of(WrongTemperature("temperature", "is hot"), {WrongTemperature: rule}).reason == "SHUTTING_DOWN"


def test_status_carries_exactly_one_error_info_and_the_delay() -> None:
    failure = failure_of(redoma_kit.errors.ShuttingDown(), {})
    details = failure.status().details
    assert [detail.TypeName() for detail in details] == ["google.rpc.ErrorInfo", "google.rpc.RetryInfo"]
    retry = error_details_pb2.RetryInfo.FromString(details[1].value)
    assert retry.retry_delay.ToMilliseconds() == 1_000
    assert isinstance(failure, Failure)


def test_what_a_caller_sent_never_makes_a_status_too_long_for_its_headers() -> None:
    failure = failure_of(InvalidField("roles[" + "\N{BOMB}" * 100_000 + "]", "is none"), {})
    assert len(failure.message.encode()) <= MAX_MESSAGE_BYTES
    assert failure.message.startswith("roles[\N{BOMB}")
    assert len(failure.status().SerializeToString()) < 4_096
    assert failure_of(InvalidField("half \ud800", "is none"), {}).message == "half ?: is none"


def test_quotas_in_the_way_survive_the_wire() -> None:
    class Full(DomainError):
        pass

    violations = (Violation("tenants/acme", "No tokens are left."), Violation("tenants/acme/apiKeys/1", "Nor here."))
    rule = ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorReason.ERROR_REASON_QUOTA_EXCEEDED)
    failure = failure_of(Full("No.", {"limit": "tokens_per_day"}, 1.5, violations), {Full: rule})
    details = [detail.TypeName() for detail in failure.status().details]
    assert details == ["google.rpc.ErrorInfo", "google.rpc.QuotaFailure", "google.rpc.RetryInfo"]
    trailers = grpc.aio.Metadata(*failure.trailing_metadata())
    raised = grpc.aio.AioRpcError(failure.code, grpc.aio.Metadata(), trailers, failure.message)
    assert failure_from_status(raised) == failure


@pytest.mark.parametrize("details", [b"\xff\xff", b"", b"\x1a\x02\xff\xff"])
def test_details_that_are_mangled_are_nobodys_words(details: bytes) -> None:
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", details))
    raised = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), trailers, "reset")
    assert failure_from_status(raised) is None


def test_every_reason_has_an_example_in_the_proto() -> None:
    text = (Path(__file__).parents[3] / "proto/redoma/common/v1/error_reason.proto").read_text()
    for name in ErrorReason.keys():  # noqa: SIM118 (an enum wrapper, not a dict)
        if name != "ERROR_REASON_UNSPECIFIED":
            assert f'{{"reason": "{name.removeprefix("ERROR_REASON_")}"' in text
