"""`redoma usage`, against a stand-in for the tenant service."""

import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result

from redoma.common.v1.usage_pb2 import Usage
from redoma.tenant.v1 import tenant_pb2, tenant_pb2_grpc, usage_pb2_grpc
from redoma.tenant.v1 import usage_pb2 as pb
from redoma_cli.__main__ import build_app
from redoma_cli.commands.usage_table import BAR_CHARACTERS, bar
from redoma_cli.errors import CliError

START = 1_764_547_200


def row(day: int, key: str, tokens: int) -> pb.UsageRow:
    """Gives what a key used in a day."""
    return pb.UsageRow(
        start_time=Timestamp(seconds=START + day * 86_400),
        api_key=key and f"tenants/acme/apiKeys/{key}",
        requests=2,
        usage=Usage(input_tokens=tokens, cached_input_tokens=1, output_tokens=tokens, reasoning_tokens=0),
        cost_nanos=1_500_000_000,
    )


class Books(usage_pb2_grpc.UsageServiceServicer, tenant_pb2_grpc.TenantServiceServicer):
    """Plays the tenant service."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.rows = [row(0, "k1", 1_000), row(0, "", 500), row(1, "k1", 40)]
        self.unbalanced: set[str] = set()

    def _note(self, request: object) -> None:
        copy = type(request)()
        copy.CopyFrom(request)  # type: ignore[attr-defined]
        self.asked.append(copy)

    def QueryUsage(self, request: pb.QueryUsageRequest, context: grpc.ServicerContext) -> pb.QueryUsageResponse:
        self._note(request)
        first = int(request.page_token or 0)
        token = str(first + 2) if first + 2 < len(self.rows) else ""
        return pb.QueryUsageResponse(rows=self.rows[first : first + 2], next_page_token=token, currency="EUR")

    def ExportUsage(
        self, request: pb.ExportUsageRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportUsageResponse]:
        self._note(request)
        yield pb.ExportUsageResponse(data=b"start_time\r\n")
        yield pb.ExportUsageResponse(data=b"x\r\ny\r\n")

    def ListLedgerTransactions(
        self, request: pb.ListLedgerTransactionsRequest, context: grpc.ServicerContext
    ) -> pb.ListLedgerTransactionsResponse:
        self._note(request)
        entries = [
            pb.LedgerEntry(account=account, unit="output_tokens", amount=amount)
            for account, amount in (("tenants/acme/usage", 4321), ("platform/served", -4321))
        ]
        transaction = pb.LedgerTransaction(
            name="tenants/acme/ledgerTransactions/t1",
            kind=pb.LedgerTransaction.KIND_CORRECTION,
            token_id="call7",
            entries=entries,
        )
        return pb.ListLedgerTransactionsResponse(transactions=[transaction] * min(2, request.page_size))

    def ReconcileUsage(
        self, request: pb.ReconcileUsageRequest, context: grpc.ServicerContext
    ) -> pb.ReconcileUsageResponse:
        self._note(request)
        sums = pb.UsageRow(tenant=request.parent, requests=5)
        return pb.ReconcileUsageResponse(
            balanced=request.parent not in self.unbalanced, ledger=sums, sums=sums, open_calls=1
        )

    def ListTenants(
        self, request: tenant_pb2.ListTenantsRequest, context: grpc.ServicerContext
    ) -> tenant_pb2.ListTenantsResponse:
        return tenant_pb2.ListTenantsResponse(
            tenants=[tenant_pb2.Tenant(name="tenants/acme"), tenant_pb2.Tenant(name="tenants/globex")]
        )


class Program:
    """Runs commands against the stand-in."""

    def __init__(self, edge: str, books: Books) -> None:
        self.edge = edge
        self.books = books

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(build_app(), ["usage", *arguments, "--edge", self.edge, "--key", "rdm_k"])

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setenv("REDOMA_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    books = Books()  # type: ignore[abstract]
    server = grpc.server(futures.ThreadPoolExecutor(4))
    usage_pb2_grpc.add_UsageServiceServicer_to_server(books, server)
    tenant_pb2_grpc.add_TenantServiceServicer_to_server(books, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Program(f"http://127.0.0.1:{port}", books)
    server.stop(None)


@pytest.mark.parametrize("command", [("acme",), ("show", "acme")])
def test_usage_is_a_table_with_a_sum_and_a_chart(program: Program, command: tuple[str, ...]) -> None:
    shown = program.ok(*command, "--by", "key", "--since", "7d")
    lines = [line.split() for line in shown.splitlines()]
    assert lines[0] == ["day", "key", "requests", "input", "cached", "output", "reasoning", "cost"]
    assert lines[1] == ["2025-12-01", "k1", "2", "1,000", "1", "1,000", "0", "1.5000", "EUR"]
    assert lines[2][:2] == ["2025-12-01", "–"]
    assert lines[4][:3] == ["total", "6", "1,540"]
    assert "2025-12-01  ████" in shown
    assert "3,000 tokens" in shown
    request = program.books.asked[0]
    assert isinstance(request, pb.QueryUsageRequest)
    assert request.selection.parent == "tenants/acme"
    assert list(request.selection.dimensions) == [pb.DIMENSION_API_KEY]
    assert request.selection.granularity == pb.GRANULARITY_DAY


def test_usage_alone_is_of_ones_own_or_of_all(program: Program) -> None:
    program.ok("--granularity", "total", "--by", "tenant,model")
    request = program.books.asked[0]
    assert isinstance(request, pb.QueryUsageRequest)
    assert request.selection.parent == "tenants/-"
    assert list(request.selection.dimensions) == [pb.DIMENSION_TENANT, pb.DIMENSION_MODEL]


def test_usage_can_be_read_by_a_program(program: Program) -> None:
    assert [one["requests"] for one in json.loads(program.ok("acme", "--json"))] == ["2", "2", "2"]


def test_no_usage_is_said(program: Program) -> None:
    program.books.rows = []
    assert "Nothing was used" in program.ok("acme")


@pytest.mark.parametrize(
    "wrong", [("--by", "colour"), ("--granularity", "week"), ("--since", "x"), ("--export", "f", "--format", "xml")]
)
def test_what_is_not_known_is_told_with_what_is(program: Program, wrong: tuple[str, ...]) -> None:
    result = program.run("acme", *wrong)
    assert isinstance(result.exception, CliError)
    assert result.exception.mend


def test_an_export_is_a_whole_file_or_none(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    assert "Wrote 2 rows" in program.ok("acme", "--by", "model", "--export", str(file))
    assert file.read_bytes() == b"start_time\r\nx\r\ny\r\n"
    assert isinstance(program.run("acme", "--export", str(file)).exception, CliError)
    assert [path.name for path in tmp_path.glob("usage*")] == ["usage.csv"]


def test_the_ledger_shows_the_tenants_side(program: Program) -> None:
    shown = program.ok("ledger", "acme", "--limit", "1", "--call", "call7")
    assert "correction" in shown
    assert " 4,321" in shown
    assert "-4,321" not in shown


def test_verify_compares_every_tenants_books_with_the_admin_key(program: Program) -> None:
    shown = program.ok("verify")
    assert "acme" in shown
    assert "globex" in shown
    program.books.unbalanced = {"tenants/globex"}
    result = program.run("verify")
    assert result.exit_code == 1
    assert "differ" in result.output
    assert program.run("verify", "acme").exit_code == 0
    assert program.run("verify", "globex", "--json").exit_code == 1


def test_bars_show_the_least_and_fit_the_most() -> None:
    assert bar(0, 10) == bar(0, 0) == ""
    assert len(bar(1, 10**9)) == 1
    assert bar(10, 10) == "█" * BAR_CHARACTERS
