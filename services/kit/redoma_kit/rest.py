"""The REST paths that google.api.http options give to gRPC methods.

The edge routes by them and the tenant service authorizes by them, so both read them here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

VERBS = ("get", "put", "post", "delete", "patch")
VARIABLE = re.compile(r"\{[^{}=]+(?:=([^{}]*))?\}")
WILDCARD = re.compile(r"\*\*|\*")


@dataclass(frozen=True, slots=True)
class RestPath:
    """One REST path of a method.

    Attributes:
        verb: The HTTP method, upper case.
        template: A google.api.http path, such as `/v1/models/{model}`.
    """

    verb: str
    template: str

    @property
    def literal(self) -> bool:
        """Whether the path has no variable part."""
        return not VARIABLE.search(self.template) and not WILDCARD.search(self.template)

    @property
    def regex(self) -> str:
        """An expression for the whole path, in what RE2 and Python share.

        `*` and a bare variable are one segment, `**` is one or more.
        """
        plain = VARIABLE.sub(lambda match: match[1] or "*", self.template)
        pieces, end = [], 0
        for wildcard in WILDCARD.finditer(plain):
            segments = "[^/]+(?:/[^/]+)*" if wildcard[0] == "**" else "[^/]+"
            pieces += [re.escape(plain[end : wildcard.start()]), segments]
            end = wildcard.end()
        return "".join((*pieces, re.escape(plain[end:])))


def rest_paths(method: MethodDescriptor) -> Iterator[RestPath]:
    """Gives the REST paths of a method, as its options list them."""
    options = method.GetOptions()
    if options.HasExtension(annotations_pb2.http):
        first: http_pb2.HttpRule = options.Extensions[annotations_pb2.http]
        for rule in (first, *first.additional_bindings):
            verb = rule.WhichOneof("pattern")
            if verb in VERBS:
                yield RestPath(verb.upper(), getattr(rule, verb))


def method_path(method: MethodDescriptor) -> str:
    """Gives the full name of a method, which is its HTTP/2 path."""
    service: ServiceDescriptor = method.containing_service
    return f"/{service.full_name}/{method.name}"
