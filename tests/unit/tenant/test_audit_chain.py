"""The chain by itself: any change is found, anything can be recorded, and floods take bounded memory."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from redoma.tenant.v1 import api_key_pb2, audit_pb2, quota_pb2, tenant_pb2, user_pb2
from redoma_kit.api_key import new_key
from redoma_kit.errors import StorageUnavailable
from redoma_tenant.audit.chain import (
    BEGINNING,
    NO_HASH,
    ChainCheck,
    Entry,
    Event,
    Position,
    Unreadable,
    canonical,
    extended,
    fields_of,
    hash_of,
)
from redoma_tenant.audit.heads import Head, HeadKeys
from redoma_tenant.audit.repeats import MAX_KINDS, Repeats
from redoma_tenant.audit.store import ChainMoved, End, Extend, Wanted
from redoma_tenant.audit.trail import AuditTrail
from redoma_tenant.audit.wording import MAX_DETAILS, fit, resource_in
from redoma_tenant.identity import SigningKey
from redoma_tenant.servicers.subjects import changed_values, made_resource, named_resource

TIME = datetime(2026, 11, 3, 12, tzinfo=UTC)
LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
WAIT_S = 30
TEXT = st.text(max_size=300)
EVENTS = st.builds(
    Event,
    chain=st.just("acme"),
    time=st.datetimes(timezones=st.just(UTC)),
    actor=TEXT,
    action=TEXT,
    resource=TEXT,
    source=TEXT,
    result=TEXT,
    request_id=TEXT,
    details=st.dictionaries(TEXT, TEXT, max_size=3),
    count=st.integers(-5, 2**40),
)


def event(number: int = 0, chain: str = "acme") -> Event:
    """Gives an event."""
    return Event(chain, TIME, "tenants/acme/apiKeys/k", f"/redoma/Do{number}", "", "::1", "OK", "r", {})


def check(entries: Sequence[Entry | Unreadable], head: Position, known: Position | None = None) -> ChainCheck:
    """Follows a chain to its end."""
    made = ChainCheck(known)
    for entry in entries:
        if not made.follow(entry):
            return made
    made.end(head, max((entry.sequence for entry in entries), default=0))
    return made


def end_of(entries: Sequence[Entry]) -> Position:
    """Gives the position of the last."""
    return Position(entries[-1].sequence, entries[-1].hash) if entries else BEGINNING


def test_the_canonical_form_is_as_documented() -> None:
    (entry,) = extended(BEGINNING, [replace(event(), details={"b": "é\n", "a": '"'})])
    fields = fields_of(entry)
    del fields["hash"]
    assert canonical(fields) == (
        '{"action":"/redoma/Do0","actor":"tenants/acme/apiKeys/k","count":1,"details":{"a":"\\"","b":"é\\n"},'
        f'"name":"tenants/acme/auditEntries/1","previous_hash":"{NO_HASH}","request_id":"r","resource":"",'
        '"result":"OK","sequence":1,"source":"::1","time":"2026-11-03T12:00:00.000000Z"}'
    )
    assert entry.hash == hashlib.sha256(canonical(fields).encode()).hexdigest()


@given(st.lists(EVENTS, max_size=6))
def test_a_chain_of_anything_is_whole(events: list[Event]) -> None:
    entries = extended(BEGINNING, [fit(one) for one in events])
    assert check(entries, end_of(entries)).found is None


@given(EVENTS)
def test_what_is_kept_is_bounded_and_printable(one: Event) -> None:
    kept = fit(one)
    lengths = {"actor": 255, "action": 200, "resource": 255, "source": 64, "result": 64, "request_id": 64}
    for name, most in lengths.items():
        text = getattr(kept, name)
        assert len(text) <= most
        assert text.isprintable()
        text.encode()
    assert kept.count >= 1
    assert len(kept.details) <= MAX_DETAILS
    assert "\0" not in json.dumps(dict(kept.details))


@given(EVENTS, st.sampled_from(["actor", "action", "resource", "source", "result", "request_id"]))
def test_a_key_in_any_field_is_not_kept(one: Event, name: str) -> None:
    key = new_key()
    kept = fit(replace(one, **{name: f"x {key} {getattr(one, name)}"}))  # type: ignore[arg-type]
    assert key[13:] not in str(kept)
    assert key[:12] in getattr(kept, name)


def test_a_token_is_not_kept() -> None:
    token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJqbyJ9.c2ln"
    assert fit(replace(event(), actor=f"Bearer {token}")).actor == "Bearer token…"
    assert resource_in("tenants/acme/users/0a") == "tenants/acme/users/0a"
    for text in ("", "a b", "tenants/acme\n", "x" * 20 + "/" + "y" * 200, "Bearer x"):
        assert resource_in(text) == ""


@given(st.integers(1, 8), st.data())
def test_a_change_of_any_entry_is_found_where_it_is(length: int, data: st.DataObject) -> None:
    entries = extended(BEGINNING, [event(number) for number in range(length)])
    head = end_of(entries)
    index = data.draw(st.integers(0, length - 1))
    kind = data.draw(st.sampled_from(["field", "hash", "previous", "gone", "unreadable", "rehashed"]))
    entry = entries[index]
    changed: list[Entry | Unreadable] = list(entries)
    where = index + 1
    if kind == "field":
        changed[index] = replace(entry, event=replace(entry.event, result="NO"))
    elif kind == "hash":
        changed[index] = replace(entry, hash="1" * 64)
    elif kind == "previous":
        changed[index] = replace(entry, previous_hash="1" * 64)
    elif kind == "gone":
        del changed[index]
    elif kind == "unreadable":
        changed[index] = Unreadable(where)
    else:
        edited = replace(entry, event=replace(entry.event, result="NO"))
        changed[index] = replace(edited, hash=hash_of(edited))
        # It fits by itself; what follows does not.
        where = min(where + 1, length)
    found = check(changed, head).found
    assert found is not None
    assert found.sequence == where
    assert found.problem.endswith(".")


@given(st.permutations(range(5)))
def test_another_order_is_found(order: list[int]) -> None:
    entries = extended(BEGINNING, [event(number) for number in range(5)])
    shuffled = [entries[index] for index in order]
    found = check(shuffled, end_of(entries)).found
    assert (found is None) == (order == sorted(order))


@given(st.integers(1, 8), st.integers(1, 8))
def test_a_chain_written_anew_is_not_the_noted_one(first: int, known: int) -> None:
    old = extended(BEGINNING, [event(number) for number in range(8)])
    noted = Position(known, old[known - 1].hash)
    new = extended(BEGINNING, [event(number + (number + 1 >= first) * 100) for number in range(8)])
    found = check(new, end_of(new), noted).found
    assert (found is None) == (known < first)


def keys(tmp_path: Path) -> HeadKeys:
    """Gives keys of their own."""
    return HeadKeys(SigningKey(Ed25519PrivateKey.generate(), "k1"), tmp_path / "none.json")


def test_a_head_is_ours_for_its_own_chain_and_place_alone(tmp_path: Path) -> None:
    ours = keys(tmp_path)
    head = ours.signed("acme", Position(3, "a" * 64))
    assert ours.is_ours(head)
    assert ours.is_current(head)
    for other in (
        replace(head, chain="globex"),
        replace(head, chain=""),
        replace(head, position=Position(4, "a" * 64)),
        replace(head, position=Position(3, "b" * 64)),
        replace(head, signature=""),
        replace(head, signature=head.signature[:-8] + "AAAAAAAA"),
        replace(head, signature=keys(tmp_path).signed("acme", head.position).signature),
    ):
        assert not ours.is_ours(other)


class MemoryStore:
    """Keeps chains in memory, and fails when told to."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.heads: dict[str, Head] = {}
        self.failures: list[Exception] = []
        self.appended = asyncio.Event()

    async def append(self, chain: str, extend: Extend, notes: Sequence[str] = ()) -> None:
        if self.failures:
            raise self.failures.pop(0)
        entries, head = extend(self.heads.get(chain), None)
        self.entries += entries
        self.heads[chain] = head
        self.appended.set()

    async def list_heads(self, after: str | None, limit: int) -> Sequence[Head]:
        return []

    async def sign_again(self, head: Head, signature: str) -> None:
        raise NotImplementedError

    async def find_end(self, chain: str) -> End:
        raise NotImplementedError

    async def list_entries(self, chain: str, wanted: Wanted, before: int | None, limit: int) -> Sequence[Entry]:
        raise NotImplementedError

    async def read_entries(self, chain: str, after: int, to: int, limit: int) -> Sequence[Entry | Unreadable]:
        raise NotImplementedError


@pytest.fixture
def store() -> MemoryStore:
    """A store in memory."""
    return MemoryStore()


@pytest.fixture
def trail(store: MemoryStore, tmp_path: Path) -> AuditTrail:
    """A trail that tries again at once."""
    return AuditTrail(store, keys(tmp_path), LOG, retry_s=0)


async def test_entries_are_written_in_the_order_of_their_events(store: MemoryStore, trail: AuditTrail) -> None:
    for number in range(20):
        trail.submit(event(number, ("acme", "")[number % 2]))
    trail.start()
    async with asyncio.timeout(WAIT_S):
        await trail.written()
    await trail.stop()
    for chain in ("acme", ""):
        own = [entry for entry in store.entries if entry.event.chain == chain]
        assert [entry.sequence for entry in own] == list(range(1, 11))
        assert check(own, store.heads[chain].position).found is None
        assert [entry.event.action for entry in own] == sorted(
            (entry.event.action for entry in own), key=lambda action: int(action[10:])
        )


@pytest.mark.parametrize("failure", [StorageUnavailable(), RuntimeError("a defect"), ChainMoved()])
async def test_nothing_is_skipped_when_writing_fails(store: MemoryStore, trail: AuditTrail, failure: Exception) -> None:
    store.failures = [failure] * 7
    trail.start()
    async with asyncio.timeout(WAIT_S):
        await trail.record(event(1))
        if not isinstance(failure, ChainMoved):
            with pytest.raises(StorageUnavailable):
                trail.check()
        trail.submit(event(2))
        await trail.written()
    trail.check()
    assert [entry.event.action for entry in store.entries] == ["/redoma/Do1", "/redoma/Do2"]
    await trail.stop()


async def test_a_call_that_is_cancelled_while_it_is_recorded_is_recorded(store: MemoryStore, trail: AuditTrail) -> None:
    recording = asyncio.create_task(trail.record(event()))
    await asyncio.sleep(0)
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    trail.start()
    async with asyncio.timeout(WAIT_S):
        await store.appended.wait()
    await trail.stop()
    assert len(store.entries) == 1


async def test_repeats_are_counted_with_the_time_of_the_last(store: MemoryStore, trail: AuditTrail) -> None:
    repeats = Repeats(trail, LOG)
    for second in range(4):
        repeats.note(replace(event(), time=TIME + timedelta(seconds=second), request_id=f"r{second}"))
    repeats.note(replace(event(), source="::2"))
    trail.start()
    await repeats.stop()
    await trail.stop()
    first, other = store.entries
    assert (first.event.count, first.event.time, first.event.request_id) == (4, TIME, "r0")
    assert first.event.details == {"last_time": "2026-11-03T12:00:03.000000Z"}
    assert (other.event.count, other.event.source, other.event.details) == (1, "::2", {})


async def test_a_flood_of_different_calls_is_counted_all_the_same(store: MemoryStore, trail: AuditTrail) -> None:
    repeats = Repeats(trail, LOG)
    for number in range(3 * MAX_KINDS):
        repeats.note(replace(event(number), result=("OK", "NO")[number % 2]))
    assert len(repeats._kinds) <= MAX_KINDS + 2
    trail.start()
    await repeats.stop()
    await trail.stop()
    assert sum(entry.event.count for entry in store.entries) == 3 * MAX_KINDS


async def test_what_is_gathered_waits_while_nothing_can_be_written(store: MemoryStore, tmp_path: Path) -> None:
    trail = AuditTrail(store, keys(tmp_path), LOG, retry_s=WAIT_S)
    store.failures = [StorageUnavailable()]
    repeats = Repeats(trail, LOG, interval_s=0.001)
    trail.start()
    await trail.record(event())
    repeats.note(event(1))
    repeats.start()
    for _ in range(100):
        await asyncio.sleep(0)
    assert repeats._kinds
    await repeats._periodic.stop()
    assert trail._task is not None
    trail._task.cancel()


def test_requests_name_what_they_are_about() -> None:
    for request, resource in (
        (tenant_pb2.CreateTenantRequest(tenant_id="acme", tenant=tenant_pb2.Tenant(name="tenants/x")), "tenants/acme"),
        (tenant_pb2.UpdateTenantRequest(tenant=tenant_pb2.Tenant(name="tenants/acme")), "tenants/acme"),
        (tenant_pb2.ListTenantsRequest(page_token="tenants/x"), ""),
        (api_key_pb2.ListApiKeysRequest(parent="tenants/-"), "tenants/own"),
        (api_key_pb2.RevokeApiKeyRequest(name="tenants/-/apiKeys/0a"), "tenants/own/apiKeys/0a"),
        (quota_pb2.CreatePlanRequest(plan_id="gold"), "plans/gold"),
        (quota_pb2.SetPriceRequest(price=quota_pb2.Price(model="llama")), "models/llama"),
        (quota_pb2.DeletePriceRequest(model="llama"), "models/llama"),
        (quota_pb2.UpdateQuotaRequest(quota=quota_pb2.Quota(name="tenants/acme/quota")), "tenants/acme/quota"),
        (user_pb2.CreateUserRequest(parent="tenants/acme", user=user_pb2.User(name="tenants/x")), "tenants/acme"),
        (audit_pb2.ListAuditEntriesRequest(parent="platform"), "platform"),
    ):
        assert named_resource(request, "own") == resource, request


def test_changes_are_told_by_name_and_by_what_is_no_text() -> None:
    user = user_pb2.User(
        name="tenants/acme/users/0a", display_name="Jo", role=user_pb2.ROLE_ADMIN, subject="jo@example.com"
    )
    request = user_pb2.CreateUserRequest(parent="tenants/acme", user=user)
    assert changed_values(request) == {"fields": "subject,display_name,role", "role": "ROLE_ADMIN"}
    update = user_pb2.UpdateUserRequest(user=user)
    update.update_mask.paths.extend(["role", "secret text", "x" * 100])
    assert changed_values(update) == {"fields": "role", "role": "ROLE_ADMIN"}
    assert changed_values(tenant_pb2.GetTenantRequest(name="tenants/acme")) == {}


def test_what_was_made_is_the_resource_or_told_beside_it() -> None:
    key = api_key_pb2.ApiKey(name="tenants/acme/apiKeys/1")
    assert made_resource("tenants/acme", api_key_pb2.CreateApiKeyResponse(api_key=key)) == (key.name, {})
    rotated = api_key_pb2.RotateApiKeyResponse(api_key=key)
    assert made_resource("tenants/acme/apiKeys/0", rotated) == ("tenants/acme/apiKeys/0", {"made": key.name})
    tenant = tenant_pb2.GetTenantResponse(tenant=tenant_pb2.Tenant(name="tenants/acme"))
    assert made_resource("tenants/acme", tenant) == ("tenants/acme", {})
    assert made_resource("tenants/acme", api_key_pb2.ListApiKeysResponse(api_keys=[key])) == ("tenants/acme", {})
