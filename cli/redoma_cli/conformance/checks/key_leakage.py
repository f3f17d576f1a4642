"""Whether a key that was sent, well or badly, comes back in anything."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import Message

from redoma.chat.v1.conversation_pb2 import ListConversationsRequest
from redoma.tenant.v1.api_key_pb2 import ListApiKeysRequest, RevokeApiKeyRequest, RevokeApiKeyResponse
from redoma.tenant.v1.audit_pb2 import ListAuditEntriesRequest
from redoma.tenant.v1.tenant_pb2 import GetTenantRequest, ListTenantsRequest
from redoma_cli.conformance.answer import SLOWED, Answer
from redoma_cli.conformance.check import Probes, Severity
from redoma_cli.conformance.grpc_web import GRPC_WEB
from redoma_cli.conformance.http_client import Headers, NoAnswer
from redoma_cli.conformance.lab import Lab, LabTenant
from redoma_cli.conformance.secrecy import holds_secret

AT_A_TIME = 8
COMPLETIONS = "/v1/chat/completions"
LARGE_BODY_BYTES, LARGE_HEADER_BYTES, LONG_URL_BYTES = 5 << 20, 40 << 10, 9_000
JSON = ("content-type", "application/json")


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A request with a key where none belongs, or with one that is not right.

    Attributes:
        name: What is odd about it, for people.
        verb: HTTP's.
        target: HTTP's.
        headers: HTTP's.
        body: HTTP's.
    """

    name: str
    verb: str
    target: str
    headers: Headers = ()
    body: bytes = b""


class KeyLeakage:
    """Keys in wrong places, wrong keys in right places."""

    id = "key-leakage"
    title = "No answer holds a key or its secret part, whatever is wrong with the request"
    severity = Severity.HIGH
    why = "Error texts end up in logs, tickets and screenshots; a key in them is a key given away."
    alone = True

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Sends them, and looks through all that comes back."""
        tenant = await lab.tenant()
        key = tenant.key.secret
        probes.step("keys in odd places over HTTP")
        # Side by side, as those with bad credentials are made to wait.
        room = asyncio.Semaphore(AT_A_TIME)
        odd = (*in_wrong_places(key), *in_bad_requests(key))
        await asyncio.gather(*(self._http(lab, probes, misplaced, key, room) for misplaced in odd))
        probes.step("keys in odd places over gRPC")
        for name, headers in wrong_metadata(key):
            self._look(probes, f"{name}, gRPC", await lab.anyone.ask(ListTenantsRequest(), headers), key)
        await self._refused_keys(lab, probes, tenant)
        probes.step("what operators see")
        for caller, whose in ((lab.admin, "the operator's"), (tenant.caller, "the tenant's")):
            for listing in (
                ListApiKeysRequest(parent=tenant.name),
                ListAuditEntriesRequest(parent=tenant.name),
                GetTenantRequest(name=tenant.name),
            ):
                answer = await caller.ask(listing, patient=True)
                name = f"{type(listing).__name__.removesuffix('Request')} with {whose} key"
                self._look(probes, name, answer, key)
                self._look(probes, name, answer, lab.admin.key)

    async def _refused_keys(self, lab: Lab, probes: Probes, tenant: LabTenant) -> None:
        """Keys that are refused for what they are: narrow, revoked, of an operator where a tenant's is wanted."""
        narrow = await lab.key(tenant.name, ("generate",))
        caller = lab.caller(narrow.secret)
        own: Message = ListConversationsRequest(parent="tenants/-")
        self._look(probes, "a key without the scope", await caller.ask(own), narrow.secret)
        self._look(probes, "an operator's key at a tenant's method", await lab.admin.ask(own), lab.admin.key)
        bad_page = ListConversationsRequest(parent="tenants/-", page_token=tenant.key.secret)
        self._look(probes, "a key as page token", await tenant.caller.ask(bad_page, patient=True), tenant.key.secret)
        await lab.admin.must(RevokeApiKeyRequest(name=narrow.name), RevokeApiKeyResponse)
        self._look(probes, "a revoked key", await caller.ask(own), narrow.secret)
        self._look(probes, "a revoked key, by grpc-web", await caller.web(own), narrow.secret)
        self._look(probes, "a revoked key, REST", await caller.rest("GET", "/v1/models"), narrow.secret)

    async def _http(self, lab: Lab, probes: Probes, misplaced: Misplaced, key: str, room: asyncio.Semaphore) -> None:
        try:
            async with room:
                sent = (misplaced.verb, misplaced.target, misplaced.headers, misplaced.body)
                answer = await lab.anyone.rest(*sent)
        except (NoAnswer, OSError, TimeoutError):
            answer = Answer("UNAVAILABLE", message="no answer")
        self._look(probes, misplaced.name, answer, key)

    def _look(self, probes: Probes, name: str, answer: Answer, key: str) -> None:
        if answer.reason == SLOWED:
            probes.leave_out("requests refused for the many bad credentials before them; run this check alone")
        where = [
            place
            for place, content in (
                ("the message", answer.message.encode()),
                ("the body", b"\n".join(answer.bodies)),
                ("the headers or trailers", answer.everything),
            )
            if holds_secret(content, key)
        ]
        told = f"{answer.label}, and {where[0]} held it" if where else answer.label
        probes.expect(not where, name, "nothing that came back holds the key's secret part", told)


def in_wrong_places(key: str) -> Iterator[Misplaced]:
    """Gives requests with a good key where no key belongs."""
    for name in ("api_key", "key", "access_token"):
        yield Misplaced(f"a key in the query as {name}", "GET", f"/v1/models?{name}={key}")
    for scheme in ("Basic", "Token", "ApiKey"):
        yield Misplaced(f"a key with the scheme {scheme}", "GET", "/v1/models", (("authorization", f"{scheme} {key}"),))
    yield Misplaced("a key without a scheme", "GET", "/v1/models", (("authorization", key),))
    yield Misplaced("a key as cookie", "GET", "/v1/models", (("cookie", f"api_key={key}"),))
    yield Misplaced("a key as path", "GET", f"/{key}")
    yield Misplaced("a key as path of the API", "GET", f"/v1/{key}")
    yield Misplaced("a key as verb's target", "DELETE", f"/v1/models?key={key}", _bearer(key))
    yield Misplaced(
        "a key as type", "POST", COMPLETIONS, (*_bearer(key), ("content-type", f"application/{key}")), b"{}"
    )
    yield Misplaced("a key as Accept", "GET", "/v1/nothing", (*_bearer(key), ("accept", key)))
    preflight = (("origin", "http://localhost"), ("access-control-request-method", "POST"))
    yield Misplaced(
        "a key in a preflight", "OPTIONS", "/v1/models", (*preflight, ("access-control-request-headers", key))
    )
    origin = (("origin", f"https://{key}.example.com"), ("access-control-request-method", "POST"))
    yield Misplaced("a key as origin of a preflight", "OPTIONS", "/v1/models", origin)
    yield Misplaced("a key as origin", "GET", "/v1/models", (*_bearer(key), ("origin", f"https://{key}.example.com")))


def in_bad_requests(key: str) -> Iterator[Misplaced]:
    """Gives requests with a key that is not right, or with a good one and something else that is not."""
    for name, headers in wrong_metadata(key):
        yield Misplaced(f"{name}, REST", "GET", "/v1/models", headers)
        yield Misplaced(f"{name}, completions", "POST", COMPLETIONS, (*headers, JSON), b'{"messages": []}')
        yield Misplaced(
            f"{name}, by grpc-web",
            "POST",
            "/redoma.chat.v1.ConversationService/ListConversations",
            (*headers, ("content-type", GRPC_WEB)),
            b"\0\0\0\0\0",
        )
    good = (*_bearer(key), JSON)
    bodies = {
        "JSON that breaks off after a key": f'{{"api_key": "{key}", "messages": [',
        "a key as the whole body": key,
        "a key as JSON text": f'"{key}"',
        "a key as messages": f'{{"messages": "{key}"}}',
        "a key as role": f'{{"messages": [{{"role": "{key}", "content": "x"}}], "max_tokens": 1}}',
        "a key as number": f'{{"messages": [{{"role": "user", "content": "x"}}], "max_tokens": "{key}"}}',
        "a key twice": f'{{"api_key": "{key}", "api_key": "{key}"}}',
    }
    for name, body in bodies.items():
        yield Misplaced(name, "POST", COMPLETIONS, good, body.encode())
        yield Misplaced(f"{name}, at /ask", "POST", "/ask", good, body.encode())
    large = key * (LARGE_BODY_BYTES // len(key))
    yield Misplaced("a body of 5 MiB of keys", "POST", COMPLETIONS, good, large.encode())
    header = (("x-api-key", key * (LARGE_HEADER_BYTES // len(key))),)
    yield Misplaced("a header of 40 KiB of keys", "GET", "/v1/models", header)
    yield Misplaced("a URL of 9,000 bytes of keys", "GET", f"/v1/{key * (LONG_URL_BYTES // len(key))}", _bearer(key))
    yield Misplaced("no HTTP at all", key, "*")
    yield Misplaced("a path that is not there", "GET", "/v1/nothing", _bearer(key))
    yield Misplaced("a verb that is not there", "DELETE", "/v1/models", _bearer(key))
    yield Misplaced("a host that is a key", "GET", "/v1/nothing", (("host", f"{key}.example.com"),))


def wrong_metadata(key: str) -> Iterator[tuple[str, Headers]]:
    """Gives credentials made of a good key that are none."""
    yield "a key with its last character changed", _bearer(key[:-1] + ("A" if key[-1] != "A" else "B"))
    yield "a key that is too long", _bearer(f"{key}x")
    yield "a key and a word", _bearer(f"{key} please")
    yield "a key in quotes", _bearer(f'"{key}"')
    yield "a key after Bearer twice", _bearer(f"Bearer {key}")
    yield "a wrong key as x-api-key", (("x-api-key", f"{key}x"),)
    yield "a key as token of three parts", _bearer(f"{key}.{key}.{key}")
    yield "a key as basic credential", (("authorization", f"Basic {key}"),)


def _bearer(credential: str) -> Headers:
    return (("authorization", f"Bearer {credential}"),)
