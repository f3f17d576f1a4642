"""Which method a path at the edge is for, and which paths are for none."""

from redoma_kit.rest import RestPath
from redoma_tenant.routes import Route, RouteTable

ROUTE = Route("/a.B/C", ("a",), frozenset({"s"}), "s")


def test_grpc_paths_are_exact_and_posted() -> None:
    table = RouteTable([ROUTE], [(RestPath("GET", "/r"), ROUTE)])
    assert table.resolve("POST", "/a.B/C") is ROUTE
    assert table.resolve("GET", "/a.B/C") is None
    assert table.resolve("POST", "/a.B/C/") is None
    assert table.resolve("POST", "/A.B/C") is None
    assert table.resolve("GET", "/r?x=/a.B/C") is ROUTE
    assert table.resolve("HEAD", "/r") is None
