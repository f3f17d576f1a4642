"""Usage: sums by time and by what is asked for, files, the ledger's transactions, and that both agree."""

import csv
import io
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import insert

from redoma.tenant.v1 import usage_pb2, usage_pb2_grpc
from redoma_kit.database import PLATFORM
from redoma_tenant.store.schema import LEDGER_ENTRIES, LEDGER_TRANSACTIONS, RESERVATIONS, USAGE_HOURS
from tests.rpc.tenant.intruder import Intruder
from tests.rpc.tenant.tenant_site import CALL_TIMEOUT_S, TenantSite, failure_of_call

SERVICE = "/redoma.tenant.v1.UsageService/"
BEGIN = datetime(2026, 9, 29, 22, tzinfo=UTC)
UNITS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nanos")
KEYS = ("0123456789abcdef", "fedcba9876543210", "")
USER = "0" * 32
TENANT, API_KEY, USER_DIMENSION, MODEL, ADAPTER = (
    usage_pb2.DIMENSION_TENANT,
    usage_pb2.DIMENSION_API_KEY,
    usage_pb2.DIMENSION_USER,
    usage_pb2.DIMENSION_MODEL,
    usage_pb2.DIMENSION_ADAPTER,
)


@dataclass(frozen=True)
class Hour:
    """A row of the sums."""

    tenant: str
    hour: datetime
    api_key: str
    user: str
    model: str
    adapter: str
    amounts: tuple[int, ...]


def some_hours() -> list[Hour]:
    """Gives sums over three months' ends, of two tenants."""
    chance = random.Random(4)
    found = {}
    for _ in range(300):
        it = (
            chance.choice(("acme", "globex")),
            BEGIN + timedelta(hours=chance.randrange(0, 72 * 24)),
            chance.choice(KEYS),
            chance.choice(("", USER)),
            chance.choice(("llama", "qwen")),
            chance.choice(("", "sha256:" + "9f" * 32)),
        )
        found[it] = Hour(*it, tuple(chance.randrange(0, 2**40) for _ in range(6)))
    return list(found.values())


class Accountant:
    """Calls UsageService, by default as an operator, on rows of its own."""

    def __init__(self, site: TenantSite) -> None:
        self.site = site
        self.hours = some_hours()

    async def fill(self) -> None:
        """Writes the sums."""
        columns = ("tenant_id", "hour", "api_key_id", "user_id", "model", "adapter", "requests", *UNITS)
        rows = [
            dict(zip(columns, (h.tenant, h.hour, h.api_key, h.user, h.model, h.adapter, *h.amounts), strict=True))
            for h in self.hours
        ]
        async with self.site.server.database.transaction(PLATFORM) as session:
            await session.execute(insert(USAGE_HOURS), rows)

    async def call(self, method: str, request: Any, tenant: str = "", scope: str = "platform.admin") -> Any:
        """Calls a unary method."""
        now = int(self.site.clock().timestamp())
        claims = {"method": SERVICE + method, "tenant": tenant, "scopes": (scope,), "iat": now, "exp": now + 60}
        metadata = self.site.pki.metadata(["tenant"], **claims)
        stub = usage_pb2_grpc.UsageServiceStub(self.site.channel())
        return await getattr(stub, method)(request, metadata=metadata, timeout=CALL_TIMEOUT_S)

    async def query(
        self, selection: usage_pb2.UsageSelection, page_size: int = 0, **caller: str
    ) -> list[usage_pb2.UsageRow]:
        """Gives all rows, page by page."""
        rows: list[usage_pb2.UsageRow] = []
        token = ""
        while True:
            request = usage_pb2.QueryUsageRequest(selection=selection, page_size=page_size, page_token=token)
            response = await self.call("QueryUsage", request, **caller)
            rows += response.rows
            token = response.next_page_token
            assert response.currency == "USD"
            if not token:
                return rows

    async def export(self, selection: usage_pb2.UsageSelection, form: Any) -> str:
        """Gives the whole file."""
        metadata = self.site.pki.metadata(
            ["tenant"], method=f"{SERVICE}ExportUsage", tenant="", scopes=("platform.admin",)
        )
        stub = usage_pb2_grpc.UsageServiceStub(self.site.channel())
        call = stub.ExportUsage(
            usage_pb2.ExportUsageRequest(selection=selection, format=form), metadata=metadata, timeout=CALL_TIMEOUT_S
        )
        return b"".join([piece.data async for piece in call]).decode()


def selection(parent: str = "tenants/acme", *dimensions: Any, **fields: Any) -> usage_pb2.UsageSelection:
    """Gives a selection of everything."""
    made = usage_pb2.UsageSelection(parent=parent, dimensions=dimensions, **fields)
    if not made.HasField("start_time"):
        made.start_time.FromDatetime(BEGIN - timedelta(days=1))
    if not made.HasField("end_time"):
        made.end_time.FromDatetime(BEGIN + timedelta(days=100))
    return made


def amounts(row: usage_pb2.UsageRow) -> tuple[int, ...]:
    """Gives the sums of a row."""
    usage = row.usage
    return (
        row.requests,
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        row.cost_nanos,
    )


def added(hours: list[Hour], key: Any) -> dict[Any, tuple[int, ...]]:
    """Sums rows up by a key."""
    found: dict[Any, tuple[int, ...]] = defaultdict(lambda: (0,) * 6)
    for hour in hours:
        found[key(hour)] = tuple(a + b for a, b in zip(found[key(hour)], hour.amounts, strict=True))
    return dict(found)


@pytest.fixture
async def accountant(site_on_each: TenantSite) -> Accountant:
    """An accountant of two tenants' use."""
    made = Accountant(site_on_each)
    await site_on_each.add_tenant("acme")
    await site_on_each.add_tenant("globex")
    await made.fill()
    return made


@pytest.mark.parametrize(
    ("granularity", "begins"),
    [
        (usage_pb2.GRANULARITY_HOUR, lambda hour: hour),
        (usage_pb2.GRANULARITY_DAY, lambda hour: hour.replace(hour=0)),
        (usage_pb2.GRANULARITY_UNSPECIFIED, lambda hour: hour.replace(hour=0)),
        (usage_pb2.GRANULARITY_MONTH, lambda hour: hour.replace(day=1, hour=0)),
    ],
)
@pytest.mark.parametrize("page_size", [0, 7])
async def test_sums_by_time_and_key_are_those_of_the_hours(
    accountant: Accountant, granularity: Any, begins: Any, page_size: int
) -> None:
    rows = await accountant.query(selection("tenants/acme", API_KEY, MODEL, granularity=granularity), page_size)
    own = [hour for hour in accountant.hours if hour.tenant == "acme"]
    names = {"": "", **{key: f"tenants/acme/apiKeys/{key}" for key in KEYS if key}}
    expected = added(own, lambda hour: (begins(hour.hour), names[hour.api_key], hour.model))
    found = {(row.start_time.ToDatetime(tzinfo=UTC), row.api_key, row.model): amounts(row) for row in rows}
    assert found == expected
    assert len(found) == len(rows)
    assert [row.start_time.seconds for row in rows] == sorted(row.start_time.seconds for row in rows)


async def test_a_total_is_one_row(accountant: Accountant) -> None:
    wanted = selection(granularity=usage_pb2.GRANULARITY_TOTAL)
    (row,) = await accountant.query(wanted)
    assert [amounts(row)] == list(added([h for h in accountant.hours if h.tenant == "acme"], lambda _: 0).values())
    assert row.start_time == wanted.start_time
    assert (row.tenant, row.api_key, row.user, row.model, row.adapter) == ("",) * 5


async def test_an_operator_sums_all_tenants_up(accountant: Accountant) -> None:
    total = usage_pb2.GRANULARITY_TOTAL
    rows = await accountant.query(selection("tenants/-", TENANT, granularity=total))
    expected = added(accountant.hours, lambda hour: f"tenants/{hour.tenant}")
    assert {row.tenant: amounts(row) for row in rows} == expected
    # Names of users tell the tenant, so it is told too.
    rows = await accountant.query(selection("tenants/-", USER_DIMENSION, ADAPTER, granularity=total), 3)
    assert {(row.tenant, row.user) for row in rows} == {
        (f"tenants/{tenant}", user) for tenant in ("acme", "globex") for user in ("", f"tenants/{tenant}/users/{USER}")
    }
    assert sum(row.requests for row in rows) == sum(hour.amounts[0] for hour in accountant.hours)


async def test_times_are_to_the_hour(accountant: Accountant) -> None:
    hour = sorted(one.hour for one in accountant.hours if one.tenant == "acme")[50]
    start, end = Timestamp(), Timestamp()
    start.FromDatetime(hour + timedelta(minutes=10))
    end.FromDatetime(hour + timedelta(minutes=20))
    rows = await accountant.query(selection(start_time=start, end_time=end, granularity=usage_pb2.GRANULARITY_HOUR))
    own = [one for one in accountant.hours if one.tenant == "acme" and one.hour == hour]
    assert [amounts(row) for row in rows] == list(added(own, lambda one: one.hour).values())


async def test_pages_go_on_with_the_times_of_the_first(accountant: Accountant) -> None:
    accountant.site.clock.ahead = BEGIN + timedelta(days=40, minutes=59) - datetime.now(UTC)
    wanted = usage_pb2.UsageSelection(parent="tenants/acme", granularity=usage_pb2.GRANULARITY_DAY)
    whole = await accountant.query(wanted)
    request = usage_pb2.QueryUsageRequest(selection=wanted, page_size=len(whole) // 2)
    first = await accountant.call("QueryUsage", request)
    accountant.site.clock.ahead += timedelta(hours=5)
    request = usage_pb2.QueryUsageRequest(selection=wanted, page_token=first.next_page_token)
    second = await accountant.call("QueryUsage", request)
    assert [*first.rows, *second.rows] == whole


async def test_a_tenant_reads_its_own_alone(accountant: Accountant) -> None:
    reader = {"tenant": "acme", "scope": "tenant.read"}
    total = usage_pb2.GRANULARITY_TOTAL
    own = selection("tenants/-", TENANT, granularity=total)
    (row,) = await accountant.query(own, tenant="acme", scope="tenant.read")
    assert row.tenant == "tenants/acme"
    for method, request in (
        ("QueryUsage", usage_pb2.QueryUsageRequest(selection=selection("tenants/globex"))),
        ("ListLedgerTransactions", usage_pb2.ListLedgerTransactionsRequest(parent="tenants/globex")),
        ("ReconcileUsage", usage_pb2.ReconcileUsageRequest(parent="tenants/globex")),
    ):
        failure = await failure_of_call(accountant.call(method, request, **reader))
        assert failure.reason == "TENANT_MISMATCH"
        failure = await failure_of_call(accountant.call(method, request, "globex", "generate"))
        assert failure.reason == "SCOPE_MISSING"


async def test_a_missing_tenant_is_not_found(accountant: Accountant) -> None:
    for method, request in (
        ("QueryUsage", usage_pb2.QueryUsageRequest(selection=selection("tenants/nobody"))),
        ("ListLedgerTransactions", usage_pb2.ListLedgerTransactionsRequest(parent="tenants/nobody")),
        ("ReconcileUsage", usage_pb2.ReconcileUsageRequest(parent="tenants/nobody")),
    ):
        assert (await failure_of_call(accountant.call(method, request))).reason == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parent": "acme"}, "selection.parent"),
        ({"granularity": 99}, "selection.granularity"),
        ({"dimensions": [0]}, "selection.dimensions"),
        ({"dimensions": [77]}, "selection.dimensions"),
        ({"start_time": Timestamp(seconds=10**15)}, "selection.start_time"),
        ({"start_time": Timestamp(seconds=7_200), "end_time": Timestamp(seconds=3_600)}, "selection.end_time"),
        ({"end_time": Timestamp(seconds=253_402_300_799)}, "selection.end_time"),
    ],
)
async def test_malformed_selections_are_refused(site: TenantSite, fields: dict[str, Any], field: str) -> None:
    wanted = usage_pb2.UsageSelection(**({"parent": "tenants/-"} | fields))
    call = Accountant(site).call("QueryUsage", usage_pb2.QueryUsageRequest(selection=wanted))
    failure = await failure_of_call(call)
    assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": field})


async def test_times_long_past_are_fine(accountant: Accountant) -> None:
    wanted = usage_pb2.UsageSelection(
        parent="tenants/acme", start_time=Timestamp(seconds=-(10**10)), granularity=usage_pb2.GRANULARITY_MONTH
    )
    wanted.end_time.FromDatetime(BEGIN + timedelta(days=100))
    assert len(await accountant.query(wanted, 1)) == 4


async def test_a_token_of_another_selection_is_refused(accountant: Accountant) -> None:
    request = usage_pb2.QueryUsageRequest(selection=selection(), page_size=1)
    token = (await accountant.call("QueryUsage", request)).next_page_token
    other = usage_pb2.QueryUsageRequest(selection=selection("tenants/globex"), page_token=token)
    assert (await failure_of_call(accountant.call("QueryUsage", other))).metadata == {"field": "page_token"}


async def test_the_longest_names_fit_a_page_token(site: TenantSite) -> None:
    accountant = Accountant(site)
    tenant = "t" * 63
    await site.add_tenant(tenant)
    accountant.hours = [
        Hour(tenant, BEGIN + timedelta(hours=n), KEYS[0], USER, "m" * 128, "a" * 80, (1,) * 6) for n in range(3)
    ]
    await accountant.fill()
    everything = (TENANT, API_KEY, USER_DIMENSION, MODEL, ADAPTER)
    wanted = selection("tenants/-", *everything, granularity=usage_pb2.GRANULARITY_HOUR)
    assert len(await accountant.query(wanted, 1)) == 3


async def test_files_hold_what_queries_tell(accountant: Accountant) -> None:
    wanted = selection("tenants/-", API_KEY, MODEL, granularity=usage_pb2.GRANULARITY_HOUR)
    rows = await accountant.query(wanted)
    as_csv = await accountant.export(wanted, usage_pb2.EXPORT_FORMAT_CSV)
    as_json = await accountant.export(wanted, usage_pb2.EXPORT_FORMAT_JSON_LINES)
    records = list(csv.DictReader(io.StringIO(as_csv, newline="")))
    lines = [json.loads(line) for line in as_json.splitlines()]
    assert [{name: str(value) for name, value in line.items()} for line in lines] == records
    assert list(lines[0]) == ["start_time", "tenant", "api_key", "model", "requests", *UNITS, "currency"]
    assert [(line["start_time"], line["tenant"], line["api_key"], line["model"]) for line in lines] == [
        (row.start_time.ToJsonString(), row.tenant, row.api_key, row.model) for row in rows
    ]
    assert [tuple(line[name] for name in ("requests", *UNITS)) for line in lines] == [amounts(row) for row in rows]


async def test_a_file_of_nothing_has_headings(site: TenantSite) -> None:
    await site.add_tenant()
    accountant = Accountant(site)
    text = await accountant.export(selection("tenants/acme", MODEL), usage_pb2.EXPORT_FORMAT_UNSPECIFIED)
    assert text.startswith("start_time,model,requests,input_tokens")
    assert text.count("\r\n") == 1
    assert await accountant.export(selection("tenants/acme"), usage_pb2.EXPORT_FORMAT_JSON_LINES) == ""


async def book(accountant: Accountant, number: int, amount: int = 10, kind: str = "SETTLEMENT") -> None:
    """Writes a transaction and its sums, as the meter does."""
    transaction = f"{number:032x}"
    call = number if kind == "SETTLEMENT" else number - 1
    time = BEGIN + timedelta(minutes=number // 2)
    values = {
        "tenant_id": "acme",
        "id": transaction,
        "token_id": f"{call:032x}",
        "revision": number - call,
        "kind": kind,
        "principal": f"tenants/acme/apiKeys/{KEYS[0]}",
        "api_key_id": KEYS[0],
        "user_id": "",
        "model": "llama",
        "adapter": "",
        "book_time": time,
    }
    lines = [(account, unit, sign * amount) for unit in UNITS for account, sign in ACCOUNTS]
    entries = [
        {"tenant_id": "acme", "transaction_id": transaction, "line": n, "account": a, "unit": u, "amount": value}
        for n, (a, u, value) in enumerate(lines)
    ]
    hour = {"tenant_id": "acme", "hour": time, "api_key_id": KEYS[0], "user_id": "", "model": f"llama {number}"}
    sums = {"adapter": "", "requests": int(kind == "SETTLEMENT"), **dict.fromkeys(UNITS, amount)}
    async with accountant.site.server.database.transaction(PLATFORM) as session:
        await session.execute(insert(LEDGER_TRANSACTIONS).values(values))
        await session.execute(insert(LEDGER_ENTRIES), entries)
        await session.execute(insert(USAGE_HOURS).values(**hour, **sums))


ACCOUNTS = (("tenants/acme/usage", 1), ("platform/served", -1))


@pytest.fixture
async def ledger(site_on_each: TenantSite) -> Accountant:
    """An accountant of a ledger of 5 calls, one of them corrected."""
    made = Accountant(site_on_each)
    await site_on_each.add_tenant()
    for number in range(5):
        await book(made, number, 10 + number)
    await book(made, 5, -3, "CORRECTION")
    return made


async def test_transactions_are_listed_the_latest_first(ledger: Accountant) -> None:
    found: list[usage_pb2.LedgerTransaction] = []
    token = ""
    while not found or token:
        request = usage_pb2.ListLedgerTransactionsRequest(parent="tenants/acme", page_size=2, page_token=token)
        response = await ledger.call("ListLedgerTransactions", request)
        found += response.transactions
        token = response.next_page_token
    assert [one.name for one in found] == [
        f"tenants/acme/ledgerTransactions/{number:032x}" for number in (5, 4, 3, 2, 1, 0)
    ]
    assert found[0].kind == usage_pb2.LedgerTransaction.KIND_CORRECTION
    entries = [(entry.account, entry.unit, entry.amount) for entry in found[0].entries]
    assert entries == [(account, unit, -3 * sign) for unit in UNITS for account, sign in ACCOUNTS]
    request = usage_pb2.ListLedgerTransactionsRequest(parent="tenants/acme", token_id=f"{4:032x}")
    of_call = (await ledger.call("ListLedgerTransactions", request)).transactions
    assert [one.kind for one in of_call] == [
        usage_pb2.LedgerTransaction.KIND_CORRECTION,
        usage_pb2.LedgerTransaction.KIND_SETTLEMENT,
    ]


async def reconciled(accountant: Accountant) -> usage_pb2.ReconcileUsageResponse:
    """Asks for the comparison."""
    response: usage_pb2.ReconcileUsageResponse = await accountant.call(
        "ReconcileUsage", usage_pb2.ReconcileUsageRequest(parent="tenants/acme")
    )
    return response


async def test_a_ledger_and_its_sums_agree(ledger: Accountant) -> None:
    found = await reconciled(ledger)
    assert found.balanced
    assert amounts(found.ledger) == amounts(found.sums) == (5, *[10 + 11 + 12 + 13 + 14 - 3] * 5)
    assert found.open_calls == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_hours SET output_tokens = output_tokens + 1 WHERE model = 'llama 2'",
        "UPDATE usage_hours SET requests = 2 WHERE model = 'llama 2'",
        "DELETE FROM usage_hours WHERE model = 'llama 5'",
        "UPDATE ledger_entries SET amount = amount + 1 WHERE unit = 'cost_nanos' AND account = 'platform/served'",
        "DELETE FROM ledger_entries WHERE transaction_id LIKE '%1' AND line = 0",
        "UPDATE ledger_entries SET amount = CASE WHEN transaction_id LIKE '%1' THEN amount + 1 ELSE amount - 1 END"
        " WHERE account = 'platform/served' AND unit = 'input_tokens'"
        " AND (transaction_id LIKE '%1' OR transaction_id LIKE '%2')",
    ],
)
async def test_what_does_not_agree_is_told(ledger: Accountant, statement: str) -> None:
    await Intruder(ledger.site).run(statement)
    assert not (await reconciled(ledger)).balanced


async def test_calls_that_are_open_are_counted(ledger: Accountant) -> None:
    columns = {column.name: 0 for column in RESERVATIONS.c if column.name.endswith(("_tokens", "_nanos", "_million"))}
    texts = dict.fromkeys(("principal", "api_key_id", "user_id", "model", "adapter"), "")
    times = {"create_time": BEGIN, "lapse_time": BEGIN, "day": 0, "month": 0, "revision": 0, "is_exact": False}
    rows = [
        {"tenant_id": tenant, "token_id": f"{number}", "state": state, **columns, **texts, **times}
        for number, (tenant, state) in enumerate(
            [("acme", "OPEN"), ("acme", "SETTLED"), ("acme", "CLOSED"), ("globex", "OPEN")]
        )
    ]
    async with ledger.site.server.database.transaction(PLATFORM) as session:
        await session.execute(insert(RESERVATIONS), rows)
    found = await reconciled(ledger)
    assert (found.open_calls, found.balanced) == (2, True)
