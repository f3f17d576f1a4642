"""REST templates of google.api.http, and what does not match them."""

import pytest

from redoma_tenant.routes import RestPath, Route, RouteTable, template_pattern

ROUTE = Route("/a.B/C", ("a",), frozenset({"s"}), "s")


@pytest.mark.parametrize(
    ("template", "path", "matches"),
    [
        ("/v1/models", "/v1/models", True),
        ("/v1/models", "/v1/models/", False),
        ("/v1/models", "/v1/modelsx", False),
        ("/v1.models", "/v1xmodels", False),
        ("/v1/models/{model}", "/v1/models/a%2Fb", True),
        ("/v1/models/{model}", "/v1/models/", False),
        ("/v1/models/{model}", "/v1/models/a/b", False),
        ("/v1/models/{model}", "/v1/models/a\n", True),
        ("/v1/{name=tenants/*/keys/*}:revoke", "/v1/tenants/a/keys/b:revoke", True),
        ("/v1/{name=tenants/*/keys/*}:revoke", "/v1/tenants/a/keys/b", False),
        ("/v1/{file=**}", "/v1/a/b/c", True),
        ("/v1/{file=**}", "/v1/", False),
    ],
)
def test_templates(template: str, path: str, matches: bool) -> None:
    assert bool(template_pattern(template).fullmatch(path)) is matches


def test_grpc_paths_are_exact_and_posted() -> None:
    table = RouteTable([ROUTE], [RestPath("GET", "/r", ROUTE)])
    assert table.resolve("POST", "/a.B/C") is ROUTE
    assert table.resolve("GET", "/a.B/C") is None
    assert table.resolve("POST", "/a.B/C/") is None
    assert table.resolve("POST", "/A.B/C") is None
    assert table.resolve("GET", "/r?x=/a.B/C") is ROUTE
    assert table.resolve("HEAD", "/r") is None
