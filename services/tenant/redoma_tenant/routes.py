"""Which gRPC method a request at the edge is for, by its gRPC or REST path, and what its identity may hold.

The edge asks before it transcodes, so it asks with the path that the client sent. Should the edge read a path
differently from this table, the call still fails: the identity is made for the method found here, and the service
called compares.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from redoma_kit.rest import RestPath


@dataclass(frozen=True, slots=True)
class Route:
    """A method that the edge may let in.

    Attributes:
        method: Full name, such as `/redoma.chat.v1.OpenAIService/Ask`.
        audience: The services that the identity is for.
        scopes: What the identity may carry, where the key has it; a key with none of them is refused.
        wanted_scope: The one to name in that refusal.
        is_noted: Whether its calls are noted for the audit trail, as the service they are for keeps none.
    """

    method: str
    audience: tuple[str, ...]
    scopes: frozenset[str]
    wanted_scope: str
    is_noted: bool = False


class RouteTable:
    """Resolves gRPC paths exactly and REST paths by their templates, the first match first."""

    __slots__ = ("_by_method", "_rest")

    def __init__(self, routes: Iterable[Route], rest: Iterable[tuple[RestPath, Route]]) -> None:
        self._by_method = {route.method: route for route in routes}
        self._rest = tuple((path.verb, re.compile(path.regex), route) for path, route in rest)

    def resolve(self, verb: str, path: str) -> Route | None:
        """Gives the route of a request, or None; `path` may carry a query."""
        path = path.partition("?")[0]
        route = self._by_method.get(path)
        if route is not None:
            return route if verb == "POST" else None
        for rest_verb, pattern, rest_route in self._rest:
            if rest_verb == verb and pattern.fullmatch(path):
                return rest_route
        return None
