"""Which method a path at the edge is for, and which paths are for none."""

import pytest

from redoma_kit.rest import RestPath
from redoma_tenant.policy import POLICY
from redoma_tenant.routes import Route, RouteTable
from redoma_tenant.servicers.exposed import edge_routes

ROUTE = Route("/a.B/C", ("a",), frozenset({"s"}), "s")


def test_grpc_paths_are_exact_and_posted() -> None:
    table = RouteTable([ROUTE], [(RestPath("GET", "/r"), ROUTE)])
    assert table.resolve("POST", "/a.B/C") is ROUTE
    assert table.resolve("GET", "/a.B/C") is None
    assert table.resolve("POST", "/a.B/C/") is None
    assert table.resolve("POST", "/A.B/C") is None
    assert table.resolve("GET", "/r?x=/a.B/C") is ROUTE
    assert table.resolve("HEAD", "/r") is None


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("/redoma.chat.v1.OpenAIService/Ask", "generate"),
        ("/redoma.chat.v1.ChatService/SendMessage", "conversations"),
        ("/redoma.tenant.v1.UserService/ListUsers", "tenant.read"),
        ("/redoma.tenant.v1.ApiKeyService/CreateApiKey", "tenant.admin"),
        ("/redoma.tenant.v1.TenantService/CreateTenant", "platform.admin"),
        ("/redoma.model.v1.EngineService/GetEngineState", "platform.admin"),
        ("/redoma.provisioner.v1.NetworkService/CreateLinkGrant", "platform.admin"),
    ],
)
def test_who_is_refused_is_told_the_least_scope_that_would_do(method: str, wanted: str) -> None:
    route = edge_routes(POLICY).resolve("POST", method)
    assert route is not None
    assert route.wanted_scope == wanted
    assert wanted in route.scopes


def test_only_calls_that_no_audited_service_sees_are_noted_at_the_edge() -> None:
    table = edge_routes(POLICY)
    noted = {method for method, route in table._by_method.items() if route.is_noted}
    assert noted
    assert {method.split(".")[1] for method in noted} == {"model", "provisioner"}
    assert "/redoma.model.v1.EngineService/GetEngineState" in noted
