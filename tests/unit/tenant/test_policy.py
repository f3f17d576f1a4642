"""Every RPC has a row in the policy table, and every refusal has one in the error table."""

import importlib
import pkgutil
from typing import Any

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2

import redoma_tenant
from redoma.chat.v1 import conversation_pb2, message_pb2, openai_pb2
from redoma.model.v1 import engine_pb2, model_pb2
from redoma.provisioner.v1 import edge_pb2, membership_pb2, network_pb2, operation_pb2
from redoma.tenant.v1 import (
    api_key_pb2,
    audit_pb2,
    meter_pb2,
    privacy_pb2,
    quota_pb2,
    tenant_pb2,
    usage_pb2,
    user_pb2,
)
from redoma_kit import errors as kit_errors
from redoma_kit.errors import DomainError, failure_of
from redoma_kit.policy import CHAT, EDGE
from redoma_tenant.errors import ERRORS
from redoma_tenant.policy import POLICY
from redoma_tenant.servicers.exposed import edge_routes
from redoma_tenant.servicers.refusals import HTTP_STATUS

TENANT_FILES = (api_key_pb2, audit_pb2, meter_pb2, privacy_pb2, quota_pb2, tenant_pb2, usage_pb2, user_pb2)
SERVED = [
    *(service for file in TENANT_FILES for service in file.DESCRIPTOR.services_by_name.values()),
    external_auth_pb2.DESCRIPTOR.services_by_name["Authorization"],
]
METER = "/redoma.tenant.v1.MeterService"
CHAT_SERVICES = [
    service
    for file in (conversation_pb2, message_pb2, openai_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]


def methods(services: list[Any]) -> set[str]:
    """Lists the full names of the services' methods."""
    return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


def domain_errors() -> list[type[DomainError]]:
    """Lists every domain exception of the package and of the kit."""
    for module in pkgutil.walk_packages(redoma_tenant.__path__, "redoma_tenant."):
        if ".migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, queue = [], [DomainError]
    while queue:
        for error in queue.pop().__subclasses__():
            if error.__module__.startswith(("redoma_tenant.", "redoma_kit.")):
                found.append(error)
                queue.append(error)
    return found


def test_the_policy_names_every_rpc_and_nothing_else() -> None:
    assert set(POLICY) == methods(SERVED)


def test_only_the_check_and_what_chat_does_by_itself_need_no_identity() -> None:
    without = {method: rule for method, rule in POLICY.items() if not rule.identity}
    assert without.pop("/envoy.service.auth.v3.Authorization/Check").peers == EDGE
    assert set(without) == {
        "/redoma.tenant.v1.TenantService/ListContentPolicies",
        f"{METER}/Checkpoint",
        f"{METER}/Settle",
        f"{METER}/WatchRevocations",
    }
    assert all(rule.peers == CHAT for rule in without.values())


def test_only_what_chat_asks_about_a_call_takes_an_identity_made_for_another_method() -> None:
    passed_on = {method: rule for method, rule in POLICY.items() if not rule.bound_method}
    assert set(passed_on) == {"/redoma.tenant.v1.TenantService/GetContentChecks", f"{METER}/Reserve"}
    assert all(rule.peers == CHAT for rule in passed_on.values())


def test_every_administrative_rpc_needs_a_scope_that_no_chat_identity_has() -> None:
    for method, rule in POLICY.items():
        if rule.identity and rule.peers == EDGE:
            assert rule.any_scope, method
            assert not rule.any_scope & {"generate", "conversations"}, method


def test_the_edge_is_let_in_to_chat_and_to_what_the_policy_opens() -> None:
    table = edge_routes(POLICY)
    opened = {method for method, rule in POLICY.items() if rule.peers == EDGE and rule.identity}
    for method in methods(CHAT_SERVICES) | opened:
        route = table.resolve("POST", method)
        assert route is not None, method
        assert route.scopes
    for method in set(POLICY) - opened:
        assert table.resolve("POST", method) is None, method


def test_the_engine_is_for_platform_operators_alone() -> None:
    table = edge_routes(POLICY)
    for method in methods([engine_pb2.DESCRIPTOR.services_by_name["EngineService"]]):
        route = table.resolve("POST", method)
        assert route is not None, method
        assert (route.audience, route.scopes, route.wanted_scope) == (
            ("model",),
            frozenset({"platform.admin"}),
            "platform.admin",
        )


def test_the_network_is_for_platform_operators_alone() -> None:
    table = edge_routes(POLICY)
    services = [
        service
        for file in (edge_pb2, network_pb2, operation_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    ]
    not_routed = {f"/redoma.provisioner.v1.NetworkService/{name}" for name in ("RedeemLinkGrant", "WatchReplicas")}
    assert not_routed < methods(services)
    for method in methods(services) - not_routed:
        route = table.resolve("POST", method)
        assert route is not None, method
        assert (route.audience, route.scopes, route.wanted_scope, route.is_noted) == (
            ("provisioner",),
            frozenset({"platform.admin"}),
            "platform.admin",
            True,
        )
    membership = methods(list(membership_pb2.DESCRIPTOR.services_by_name.values()))
    assert membership
    for method in not_routed | membership:
        assert table.resolve("POST", method) is None, method


def test_no_identity_is_made_for_the_model_service() -> None:
    table = edge_routes(POLICY)
    for method in methods([model_pb2.DESCRIPTOR.services_by_name["ModelService"]]):
        assert table.resolve("POST", method) is None, method


def test_what_chat_passes_on_to_the_model_administers_nothing() -> None:
    table = edge_routes(POLICY)
    for method in methods(CHAT_SERVICES):
        route = table.resolve("POST", method)
        assert route is not None
        assert route.scopes <= {"generate", "conversations"}, method


@pytest.mark.parametrize("error", domain_errors(), ids=lambda error: error.__name__)
def test_every_exception_has_a_rule_and_an_http_status_at_the_edge(error: type[DomainError]) -> None:
    failure = _failure(error)
    assert failure.reason
    if error.__module__.startswith("redoma_tenant."):
        assert failure.code in HTTP_STATUS
        assert error in ERRORS


def test_what_the_gate_raises_has_an_http_status() -> None:
    for error in (
        kit_errors.CredentialInvalid,
        kit_errors.ScopeMissing,
        kit_errors.MethodDenied,
        kit_errors.ResourceNotFound,
        kit_errors.StorageUnavailable,
    ):
        assert _failure(error).code in HTTP_STATUS
    assert HTTP_STATUS[grpc.StatusCode.UNAVAILABLE] == 503


def _failure(error: type[DomainError]) -> kit_errors.Failure:
    instance = error.__new__(error)
    DomainError.__init__(instance, "message")
    return failure_of(instance, ERRORS)
