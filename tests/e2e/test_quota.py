"""Quotas on a whole site: a budget is never passed, and what is booked is what the model counted, to the token."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import openai
import pytest

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc
from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma.common.v1.usage_pb2 import Usage
from redoma.model.v1 import engine_pb2, engine_pb2_grpc
from redoma.tenant.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from tests.e2e.conftest import Site, wait_until
from tests.e2e.test_grpc import reason_of

MODEL = "smollm2-135m-instruct"
QUESTION = "Count the grains of sand on a beach, one by one."
STREAMS, COVERED = 50, 20
# The lease of what a dead chat held has to lapse first.
BOOKED_WITHIN_S = 120
SCOPES = ("generate", "conversations", "tenant.read")


@dataclass(slots=True)
class Books:
    """What an operator sees of a tenant with a key of its own, `key_name`."""

    site: Site
    tenant: str
    key: str
    key_name: str
    channel: grpc.Channel

    @property
    def operator(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.site.admin_key}"),)

    @property
    def bearer(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)

    def openai(self) -> openai.OpenAI:
        return self.site.openai(api_key=self.key)

    def limit(self, **limits: int) -> None:
        """Sets the tenant's limits in place of those it had."""
        quota = quota_pb2.Quota(name=f"tenants/{self.tenant}/quota", limits=quota_pb2.Limits(**limits))
        request = quota_pb2.UpdateQuotaRequest(quota=quota)
        request.update_mask.paths.append("limits")
        quota_pb2_grpc.QuotaServiceStub(self.channel).UpdateQuota(request, metadata=self.operator, timeout=60)

    def month(self) -> quota_pb2.LimitState:
        """Gives how the limit of the month stands."""
        stub = quota_pb2_grpc.QuotaServiceStub(self.channel)
        request = quota_pb2.GetQuotaRequest(name="tenants/-/quota")
        quota = stub.GetQuota(request, metadata=self.bearer, timeout=60).quota
        (state,) = (state for state in quota.states if state.limit == "tokens_per_month")
        return state

    def reconciled(self) -> usage_pb2.ReconcileUsageResponse:
        """Waits until nothing is open, and gives what is booked."""
        stub = usage_pb2_grpc.UsageServiceStub(self.channel)
        request = usage_pb2.ReconcileUsageRequest(parent=f"tenants/{self.tenant}")

        def closed() -> Any:
            found = stub.ReconcileUsage(request, metadata=self.operator, timeout=60)
            return found if found.open_calls == 0 else None

        found: usage_pb2.ReconcileUsageResponse = wait_until(closed, "all calls to be booked", BOOKED_WITHIN_S)
        return found

    def counted(self) -> Usage:
        """Sums up what the model service counted of the tenant."""
        stub = engine_pb2_grpc.EngineServiceStub(self.channel)
        request = engine_pb2.ListUsageRecordsRequest(tenant=self.tenant, page_size=1_000)
        total = Usage()
        while True:
            page = stub.ListUsageRecords(request, metadata=self.operator, timeout=60)
            for record in page.records:
                assert record.HasField("end_time"), "a request runs for nobody"
                total.input_tokens += record.usage.input_tokens
                total.cached_input_tokens += record.usage.cached_input_tokens
                total.output_tokens += record.usage.output_tokens
                total.reasoning_tokens += record.usage.reasoning_tokens
            if not page.next_page_token:
                return total
            request.page_token = page.next_page_token

    def check(self, budget: int) -> int:
        """Checks the books against the model's counts; gives the tokens used."""
        found = self.reconciled()
        counted = self.counted()
        used = counted.input_tokens + counted.output_tokens
        assert found.balanced
        assert found.ledger.usage == counted == found.sums.usage
        assert used <= budget
        state = self.month()
        assert (state.used, state.reserved, state.limit_value) == (used, 0, budget)
        return used


@pytest.fixture
def books(site: Site) -> Any:
    """A new tenant."""
    name = f"quota-{uuid.uuid4().hex[:8]}"
    site.wait_ready()
    with site.channel() as channel:
        made = Books(site, name, "", "", channel)
        tenant = tenant_pb2.CreateTenantRequest(tenant_id=name, tenant=tenant_pb2.Tenant(display_name=name))
        tenant_pb2_grpc.TenantServiceStub(channel).CreateTenant(tenant, metadata=made.operator, timeout=60)
        key = api_key_pb2.CreateApiKeyRequest(
            parent=f"tenants/{name}", api_key=api_key_pb2.ApiKey(display_name="quota", scopes=SCOPES)
        )
        created = api_key_pb2_grpc.ApiKeyServiceStub(channel).CreateApiKey(key, metadata=made.operator, timeout=60)
        made.key, made.key_name = created.secret, created.api_key.name
        yield made


@dataclass(slots=True)
class Outcomes:
    """How streams ended, and how many tokens were read in all."""

    by_kind: Counter[str] = field(default_factory=Counter)
    tokens_seen: int = 0
    begun: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str) -> str:
        with self.lock:
            self.by_kind[kind] += 1
        return kind

    def saw(self) -> int:
        with self.lock:
            self.tokens_seen += 1
            if self.tokens_seen > 100:
                self.begun.set()
            return self.tokens_seen


def complete(books: Books, outcomes: Outcomes, drop_after: int | None = None, **more: Any) -> str:
    """Reads one of OpenAI's streams to its end, or drops it; says what became of it."""
    options = {"max_tokens": 30, **more}
    try:
        stream = books.openai().chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            extra_body={"ignore_eos": True},
            **{name: value for name, value in options.items() if value is not None},
        )
        for index, chunk in enumerate(stream):
            outcomes.saw()
            if index == drop_after:
                stream.close()
                return outcomes.note("dropped")
            if chunk.choices and chunk.choices[0].finish_reason:
                return outcomes.note("done")
        return outcomes.note("broken")
    except openai.RateLimitError as error:
        told = (error.code, error.response.headers.get("x-should-retry"))
        return outcomes.note("refused" if told == ("insufficient_quota", "false") else f"refused with {told}")
    except openai.APIStatusError as error:
        return outcomes.note("broken" if error.status_code == 503 else f"failed with {error.status_code}")
    except openai.APIError as error:
        # What came in the stream itself.
        return outcomes.note("ended" if error.code == "insufficient_quota" else "broken")
    except openai.OpenAIError:
        return outcomes.note("broken")


def converse(books: Books, outcomes: Outcomes, drop_after: int | None = None) -> str:
    """Sends a message of a new conversation and reads the answer; says what became of it."""
    stub = message_pb2_grpc.ChatServiceStub(books.channel)
    conversations = conversation_pb2_grpc.ConversationServiceStub(books.channel)
    try:
        created = conversations.CreateConversation(
            conversation_pb2.CreateConversationRequest(parent="tenants/-"), metadata=books.bearer, timeout=60
        )
        request = message_pb2.SendMessageRequest(
            conversation=created.conversation.name,
            content=QUESTION,
            sampling=SamplingOptions(max_output_tokens=30, ignore_eos=True),
        )
        call = stub.SendMessage(request, metadata=books.bearer, timeout=120)
        for index, event in enumerate(call):
            outcomes.saw()
            if index == drop_after:
                call.cancel()
                return outcomes.note("dropped")
            if event.HasField("done"):
                return outcomes.note("done")
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # type: ignore[attr-defined]
            reason = reason_of(error)
            return outcomes.note("refused" if reason == "QUOTA_EXCEEDED" else f"refused with {reason}")
    return outcomes.note("broken")


def at_once(work: list[Callable[[], object]]) -> None:
    """Does all at the same time."""
    with ThreadPoolExecutor(len(work)) as pool:
        for done in [pool.submit(one) for one in work]:
            done.result()


def cost_of_one(books: Books) -> int:
    """Makes one call and gives the tokens that it took, prompt included."""
    assert complete(books, Outcomes()) == "done"
    books.reconciled()
    counted = books.counted()
    return counted.input_tokens + counted.output_tokens


def test_fifty_streams_get_what_a_budget_covers_and_not_a_token_more(books: Books) -> None:
    one = cost_of_one(books)
    budget = (COVERED + 1) * one
    books.limit(tokens_per_month=budget)
    outcomes = Outcomes()
    at_once([lambda: complete(books, outcomes) for _ in range(STREAMS)])
    assert outcomes.by_kind == {"done": COVERED, "refused": STREAMS - COVERED}
    assert books.check(budget) == budget


def test_answers_without_a_bound_end_at_the_limit_with_a_word(books: Books) -> None:
    one = cost_of_one(books)
    budget = one + 400
    books.limit(tokens_per_month=budget)
    outcomes = Outcomes()
    at_once([lambda: complete(books, outcomes, max_tokens=None) for _ in range(6)])
    assert set(outcomes.by_kind) == {"ended", "refused"}
    used = books.check(budget)
    assert used > budget - one


def test_openais_clients_are_told_how_limits_stand_and_when_to_come_back(books: Books) -> None:
    books.limit(requests_per_minute=2, tokens_per_minute=100_000)
    completions = books.openai().chat.completions.with_raw_response
    asked: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    first = completions.create(**asked).headers
    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert int(first["x-ratelimit-remaining-tokens"]) < 100_000
    assert first["x-ratelimit-reset-requests"].endswith("s")
    assert completions.create(**asked, stream=True).headers["x-ratelimit-limit-tokens"] == "100000"
    with pytest.raises(openai.RateLimitError) as caught:
        completions.create(**asked)
    told = caught.value.response.headers
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(told["retry-after"]) <= 60
    assert told["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError):
        books.openai().embeddings.create(model=MODEL, input="Hi")


def test_revoked_key_ends_its_running_stream_within_a_second(books: Books) -> None:
    stream = books.openai().chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        max_tokens=4_000,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    request = api_key_pb2.RevokeApiKeyRequest(name=books.key_name)
    api_key_pb2_grpc.ApiKeyServiceStub(books.channel).RevokeApiKey(request, metadata=books.operator, timeout=60)
    revoked_at = time.monotonic()
    with pytest.raises(openai.APIError) as caught:
        for _ in stream:
            continue
    assert time.monotonic() - revoked_at < 1.5
    assert caught.value.code == "invalid_api_key"
    found = books.reconciled()
    assert found.ledger.usage == books.counted()


def test_dropped_clients_and_a_killed_chat_are_booked_to_the_token(books: Books) -> None:
    one = cost_of_one(books)
    budget = (COVERED + 1) * one
    books.limit(tokens_per_month=budget)
    outcomes = Outcomes()
    chance = random.Random(4)

    def client(work: Callable[..., str], drop_after: int | None) -> None:
        for _ in range(5):
            if work(books, outcomes, drop_after) != "broken":
                return
            books.site.wait_ready()

    def kill() -> None:
        assert outcomes.begun.wait(120)
        books.site.kill("chat")

    clients: list[Callable[[], object]] = []
    for number in range(STREAMS):
        drop_after = chance.randrange(1, 25) if number % 3 == 0 else None
        work = complete if number % 2 else converse
        clients.append(lambda work=work, drop_after=drop_after: client(work, drop_after))  # type: ignore[misc]
    at_once([kill, *clients])
    assert outcomes.by_kind["broken"], "chat was killed while nothing ran"
    assert outcomes.by_kind["dropped"]
    assert set(outcomes.by_kind) <= {"done", "refused", "dropped", "broken"}
    books.check(budget)
    # What was let go can be used.
    assert books.month().reserved == 0
