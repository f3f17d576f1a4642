"""What authorization adds to a request at the edge, and whether that grows with the number of tenants."""

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from redoma.tenant.v1 import api_key_pb2, api_key_pb2_grpc, tenant_pb2, tenant_pb2_grpc
from tests.bench.authorization_site import ASKED_PATH, FREE_PATH, AuthorizationSite, authorization_site
from tests.bench.findings import Findings, Goal, Plan, Table
from tests.bench.identities import Identities

TENANTS = (100, 1_000, 10_000)
CONNECTIONS, REQUESTS_PER_S, WINDOW_S = 16, 400, 10.0
# Keys in use at a time, all of them in the cache.
WARM_KEYS = 200
CALLS = 200
GOAL_MS = 1.5
# What the largest number of tenants may cost, as a multiple of the smallest.
FLAT = 2.0
LIST_TENANTS = "/redoma.tenant.v1.TenantService/ListTenants"
LIST_API_KEYS = "/redoma.tenant.v1.ApiKeyService/ListApiKeys"
ABOUT = (
    f"A real Envoy with the edge's configuration and a real tenant service on SQLite, with 10 keys a tenant. "
    f"{CONNECTIONS} connections send {REQUESTS_PER_S} requests a second in all, in turns to a path that is authorized "
    "and to one that is not; the edge itself answers both, so the difference is what authorization adds. Below that, "
    "calls of the tenant service one after the other: a check of a key that it has not seen, one that it has, and the "
    "first page of tenants and of keys."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One number of tenants, in milliseconds."""

    tenants: int
    free_p50_ms: float
    free_p99_ms: float
    asked_p50_ms: float
    asked_p99_ms: float
    tenant_cpu_ms: float
    cold_ms: float
    warm_ms: float
    list_tenants_ms: float
    list_keys_ms: float

    @property
    def added_ms(self) -> float:
        """What authorization adds to the median."""
        return self.asked_p50_ms - self.free_p50_ms


async def run(plan: Plan) -> Findings:
    """Measures each number of tenants, one after the other."""
    rows = [await _measure(plan, tenants) for tenants in plan.pick(TENANTS, (10, 20))]
    edge = Table(
        "Authorization at the edge",
        ("tenants", "without p50, ms", "p99", "with p50, ms", "p99", "added p50, ms", "tenant service, ms of CPU"),
        tuple(_edge_cells(row) for row in rows),
    )
    calls = Table(
        "The tenant service",
        ("tenants", "first check, ms", "check, ms", "list tenants, ms", "list keys, ms"),
        tuple(_call_cells(row) for row in rows),
    )
    return Findings("authorization", ABOUT, (edge, calls), _goals(rows), {"rows": [asdict(row) for row in rows]})


def _goals(rows: Sequence[Row]) -> tuple[Goal, ...]:
    least, most = rows[0], rows[-1]
    return (
        Goal("authorization adds to the median, ms", max(row.added_ms for row in rows), GOAL_MS, at_least=False),
        Goal("first check, most tenants to fewest", most.cold_ms / least.cold_ms, FLAT, at_least=False),
        Goal("list tenants, most to fewest", most.list_tenants_ms / least.list_tenants_ms, FLAT, at_least=False),
        Goal("list keys, most tenants to fewest", most.list_keys_ms / least.list_keys_ms, FLAT, at_least=False),
    )


def _edge_cells(row: Row) -> tuple[str, ...]:
    times = (row.free_p50_ms, row.free_p99_ms, row.asked_p50_ms, row.asked_p99_ms, row.added_ms, row.tenant_cpu_ms)
    return (f"{row.tenants:,}", *(f"{time_ms:.2f}" for time_ms in times))


def _call_cells(row: Row) -> tuple[str, ...]:
    times = (row.cold_ms, row.warm_ms, row.list_tenants_ms, row.list_keys_ms)
    return (f"{row.tenants:,}", *(f"{time_ms:.2f}" for time_ms in times))


async def _measure(plan: Plan, tenants: int) -> Row:
    plan.tell(f"{tenants:,} tenants")
    with tempfile.TemporaryDirectory(prefix="redoma-bench-", ignore_cleanup_errors=True) as folder:
        async with authorization_site(Path(folder), tenants) as site:
            calls = await _calls(site, plan.pick(CALLS, 5))
            rounds = []
            for turn in range(plan.rounds):
                plan.tell(f"{tenants:,} tenants, round {turn + 1} of {plan.rounds}")
                rounds.append(await _at_the_edge(site, plan.pick(WINDOW_S, 0.5)))
    return Row(tenants, **calls, **{name: median(one[name] for one in rounds) for name in rounds[0]})


async def _at_the_edge(site: AuthorizationSite, window_s: float) -> dict[str, float]:
    keys = site.keys[:WARM_KEYS]
    taken: dict[str, list[float]] = {ASKED_PATH: [], FREE_PATH: []}
    cpu_s = site.cpu_s("tenant")
    begin = time.perf_counter() + 0.1
    await asyncio.gather(
        *(_send(site.edge_port, keys, taken, begin, number, window_s) for number in range(CONNECTIONS))
    )
    cpu_s = site.cpu_s("tenant") - cpu_s
    return {
        "free_p50_ms": median(taken[FREE_PATH]) * 1e3,
        "free_p99_ms": quantiles(taken[FREE_PATH], n=100)[98] * 1e3,
        "asked_p50_ms": median(taken[ASKED_PATH]) * 1e3,
        "asked_p99_ms": quantiles(taken[ASKED_PATH], n=100)[98] * 1e3,
        "tenant_cpu_ms": cpu_s * 1e3 / len(taken[ASKED_PATH]),
    }


async def _send(
    port: int, keys: Sequence[str], taken: Mapping[str, list[float]], begin: float, number: int, window_s: float
) -> None:
    """Sends a request whenever one is due, in turns to both paths."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    interval_s = CONNECTIONS / REQUESTS_PER_S
    due = begin + number * interval_s / CONNECTIONS
    path = (ASKED_PATH, FREE_PATH)[number % 2]
    while due < begin + window_s:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent = time.perf_counter()
        writer.write(_request(path, random.choice(keys)))
        status = await reader.readline()
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in status:
            raise RuntimeError(f"the edge says {status.decode().strip()}")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        taken[path].append(time.perf_counter() - sent)
        due += interval_s
        path = FREE_PATH if path == ASKED_PATH else ASKED_PATH
    writer.close()


def _request(path: str, key: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


async def _calls(site: AuthorizationSite, calls: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(site.channel())
        stub = site.authorization(channel)
        tenants = tenant_pb2_grpc.TenantServiceStub(channel)
        api_keys = api_key_pb2_grpc.ApiKeyServiceStub(channel)
        identities = Identities(site.authority)

        def metadata(method: str) -> tuple[tuple[str, str], ...]:
            return identities.metadata("", method, ("platform.admin",))

        async def list_tenants(_: int) -> object:
            return await tenants.ListTenants(tenant_pb2.ListTenantsRequest(), metadata=metadata(LIST_TENANTS))

        async def list_keys(number: int) -> object:
            request = api_key_pb2.ListApiKeysRequest(parent=f"tenants/tenant-{number % 10:05}")
            return await api_keys.ListApiKeys(request, metadata=metadata(LIST_API_KEYS))

        await list_tenants(0)
        # From the end, where the edge's own keys are not.
        strangers = [_check(key) for key in reversed(site.keys[-calls:])]
        return {
            "cold_ms": await _median_ms(lambda number: stub.Check(strangers[number]), calls),
            "warm_ms": await _median_ms(lambda number: stub.Check(strangers[number]), calls),
            "list_tenants_ms": await _median_ms(list_tenants, calls),
            "list_keys_ms": await _median_ms(list_keys, calls),
        }


def _check(key: str) -> CheckRequest:
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "GET", ASKED_PATH
    http.headers["authorization"] = f"Bearer {key}"
    return request


async def _median_ms(call: Callable[[int], Awaitable[object]], calls: int) -> float:
    taken = []
    for number in range(calls):
        began = time.perf_counter()
        await call(number)
        taken.append(time.perf_counter() - began)
    return median(taken) * 1e3
