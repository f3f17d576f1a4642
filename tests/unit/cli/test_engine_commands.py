"""`redoma engine`: what it shows of a state, and what it sends, against a server that plays the model process."""

import json
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from typer.testing import CliRunner, Result

from redoma.common.v1.usage_pb2 import FINISH_REASON_LENGTH, Usage
from redoma.model.v1 import engine_pb2 as pb
from redoma.model.v1 import engine_pb2_grpc
from redoma.model.v1.model_pb2 import Model
from redoma_cli.__main__ import build_app
from redoma_cli.commands.engine_top import bar, cache_hits, drafts, percent, service, view
from redoma_cli.errors import CliError

DIGEST = f"sha256:{'9f' * 32}"
START = 1_750_000_000


def state(second: int = 0, **fields: object) -> pb.EngineState:
    """A state so many seconds after the first, with a thousand more tokens each second."""
    tokens = 1_000 * (second + 1)
    model = pb.ModelState(
        model=Model(id="smollm2", size_bytes=98_000_000, context_tokens=8_192, slots=16, quantization="Q4_1"),
        aliases=["gpt-4o"],
        running=3,
        waiting=2,
        preempted=1,
        cells=1_000,
        used_cells=500,
        cached_cells=250,
        step_median_s=0.0234,
        step_max_s=0.1,
        step_budget_tokens=64,
        output_tokens=tokens,
        prefill_tokens=2 * tokens,
        drafted_tokens=tokens,
        accepted_draft_tokens=tokens // 4,
        tenants=[
            pb.TenantState(tenant="acme", weight=100, running=2, input_tokens=tokens, cached_input_tokens=tokens // 2),
            pb.TenantState(tenant="globex", weight=50, running=1, output_tokens=tokens * 3 // 4),
        ],
        adapters=[pb.Adapter(digest=DIGEST, tenant="acme", name="Contracts", scale=0.5, requests=2)],
    )
    return pb.EngineState(take_time=Timestamp(seconds=START + second), models=[model], **fields)  # type: ignore[arg-type]


class Operator(engine_pb2_grpc.EngineServiceServicer):
    """Plays the model process and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.watches = 0

    def GetEngineState(
        self, request: pb.GetEngineStateRequest, context: grpc.ServicerContext
    ) -> pb.GetEngineStateResponse:
        return pb.GetEngineStateResponse(state=state())

    def WatchEngine(
        self, request: pb.WatchEngineRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchEngineResponse]:
        self.asked.append(request)
        self.watches += 1
        yield pb.WatchEngineResponse(state=state(self.watches))
        if self.watches < 3:
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "The call ran past its deadline.")
        context.abort(grpc.StatusCode.UNAVAILABLE, "The service is shutting down; try again.")

    def LoadModel(self, request: pb.LoadModelRequest, context: grpc.ServicerContext) -> Iterator[pb.LoadModelResponse]:
        self.asked.append(request)
        yield pb.LoadModelResponse(progress=0.5)
        yield pb.LoadModelResponse(model=Model(id=request.id, slots=8, context_tokens=512))

    def UnloadModel(self, request: pb.UnloadModelRequest, context: grpc.ServicerContext) -> pb.UnloadModelResponse:
        self.asked.append(request)
        return pb.UnloadModelResponse()

    def SetModelAlias(
        self, request: pb.SetModelAliasRequest, context: grpc.ServicerContext
    ) -> pb.SetModelAliasResponse:
        self.asked.append(request)
        return pb.SetModelAliasResponse()

    def DeleteModelAlias(
        self, request: pb.DeleteModelAliasRequest, context: grpc.ServicerContext
    ) -> pb.DeleteModelAliasResponse:
        self.asked.append(request)
        return pb.DeleteModelAliasResponse()

    def PurgeTenant(self, request: pb.PurgeTenantRequest, context: grpc.ServicerContext) -> pb.PurgeTenantResponse:
        self.asked.append(request)
        return pb.PurgeTenantResponse(ended_requests=2, freed_cells=300, freed_host_bytes=1_500_000)

    def LoadAdapter(self, request: pb.LoadAdapterRequest, context: grpc.ServicerContext) -> pb.LoadAdapterResponse:
        self.asked.append(request)
        return pb.LoadAdapterResponse(adapter=pb.Adapter(digest=DIGEST, tenant="acme", name="Contracts"))

    def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: grpc.ServicerContext
    ) -> pb.UnloadAdapterResponse:
        self.asked.append(request)
        return pb.UnloadAdapterResponse()

    def ListUsageRecords(
        self, request: pb.ListUsageRecordsRequest, context: grpc.ServicerContext
    ) -> pb.ListUsageRecordsResponse:
        self.asked.append(request)
        first = int(request.page_token or 0)
        size = min(request.page_size, 1_000)
        moment = Timestamp(seconds=START)
        records = [
            pb.UsageRecord(
                token_id=f"call{number}",
                tenant="acme",
                model="smollm2",
                adapter=DIGEST,
                start_time=moment,
                end_time=moment if number else None,
                usage=Usage(input_tokens=11, cached_input_tokens=7, output_tokens=5),
                finish_reason=FINISH_REASON_LENGTH if number else 0,
            )
            for number in range(first, min(first + size, 1_200))
        ]
        after = first + len(records)
        return pb.ListUsageRecordsResponse(records=records, next_page_token=str(after) if after < 1_200 else "")


class Program:
    """Runs commands against the operator's stand-in."""

    def __init__(self, edge: str, operator: Operator) -> None:
        self.edge = edge
        self.operator = operator

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(build_app(), ["engine", *arguments, "--edge", self.edge, "--key", "rdm_k"])

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setenv("REDOMA_HOME", str(tmp_path))
    operator = Operator()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    engine_pb2_grpc.add_EngineServiceServicer_to_server(operator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Program(f"http://127.0.0.1:{port}", operator)
    server.stop(None)


def test_top_once_is_plain_text_of_one_state(program: Program) -> None:
    shown = program.ok("top", "--once", "--interval", "0.5")
    assert "smollm2 = gpt-4o  3 running, 2 waiting, 1 preempted" in shown
    assert "500 of 1000, 250 cached" in shown
    assert "\x1b" not in shown
    (request,) = program.operator.asked
    assert isinstance(request, pb.WatchEngineRequest)
    assert request.interval.ToMilliseconds() == 500


def test_top_goes_on_when_a_stream_has_lasted_as_long_as_it_may(program: Program) -> None:
    result = program.run("top")
    assert program.operator.watches == 3
    assert result.output.count("smollm2 = gpt-4o") == 3
    # From one state to the next, across streams.
    assert "output 1000 tok/s" in result.output
    assert isinstance(result.exception, CliError)
    assert "shutting down" in result.exception.message


def test_top_redraws_on_a_terminal(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = program.run("top").output
    assert program.operator.watches == 3
    # The cursor goes back up to where the former state began.
    assert "\x1b[1A" in shown


def test_top_can_be_read_by_a_program(program: Program) -> None:
    shown = json.loads(program.ok("top", "--once", "--json"))
    assert shown["models"][0]["running"] == 3


def text_of(now: pb.EngineState, former: pb.EngineState | None) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(view(now, former))
    return captured.get()


def test_rates_and_shares_are_of_the_last_interval() -> None:
    shown = text_of(state(2), state(0))
    assert "prefill 2000 tok/s" in shown
    assert "output 1000 tok/s" in shown
    assert "drafts accepted 25 %" in shown
    assert "input from cache 50 %" in shown
    acme, globex = (
        next(line for line in shown.splitlines() if line.split()[:1] == [name]) for name in ("acme", "globex")
    )
    # 1,000 computed input tokens against 1,500 output tokens of twice their cost.
    assert "25 %" in acme and "75 %" in globex
    assert acme.split()[-1] == "0.0" and globex.split()[-1] == "750.0"
    assert shown.index("globex") < shown.index("acme")


def test_first_state_shows_no_rate() -> None:
    shown = text_of(state(0), None)
    assert "output – tok/s" in shown
    assert "Serves the tenant acme alone." in text_of(state(0, dedicated_tenant="acme"), None)


def test_model_that_was_loaded_anew_counts_from_nothing() -> None:
    now, former = state(0), state(5)
    now.take_time.seconds = START + 6
    now.models[0].model.load_time_s = START + 5
    shown = text_of(now, former)
    assert "-" not in shown.replace("gpt-4o", "").replace("preempted", "")
    assert "drafts accepted 25 %" in shown


def test_nothing_done_is_a_dash() -> None:
    assert percent(0, 0) == "–"
    assert drafts(pb.ModelState(), None) == (0, 0)
    assert cache_hits(pb.ModelState(), None) == (0, 0)
    assert service(pb.TenantState(output_tokens=1), pb.TenantState(output_tokens=9)) == 2.0
    assert bar(pb.ModelState()) == f"[green][/][cyan][/]{'░' * 20}"
    assert bar(pb.ModelState(cells=10, used_cells=20, cached_cells=30)) == f"[green][/][cyan]{'▓' * 20}[/]"


def test_models_and_adapters_are_listed(program: Program) -> None:
    shown = program.ok("models")
    assert "smollm2" in shown and "gpt-4o" in shown and "98 MB" in shown
    shown = program.ok("adapter", "list")
    assert "Contracts" in shown and DIGEST in shown and "0.5" in shown
    assert json.loads(program.ok("adapter", "list", "--json"))[0]["digest"] == DIGEST


def test_model_is_loaded_and_unloaded(program: Program) -> None:
    shown = program.ok("load", "sub/q.gguf", "--id", "q", "--slots", "8", "--kv-cells", "99", "--context-tokens", "512")
    assert "Serving q: 8 slots, 512 tokens." in shown
    assert "Unloaded q." in program.ok("unload", "q")
    assert program.operator.asked == [
        pb.LoadModelRequest(file="sub/q.gguf", id="q", slots=8, kv_cells=99, context_tokens=512),
        pb.UnloadModelRequest(id="q"),
    ]


def test_alias_is_set_or_deleted_and_never_neither(program: Program) -> None:
    program.ok("alias", "gpt-4o", "q")
    program.ok("alias", "gpt-4o", "--delete")
    assert program.operator.asked == [
        pb.SetModelAliasRequest(alias="gpt-4o", model="q"),
        pb.DeleteModelAliasRequest(alias="gpt-4o"),
    ]
    for arguments in (("alias", "x"), ("alias", "x", "q", "--delete")):
        result = program.run(*arguments)
        assert isinstance(result.exception, CliError)
    assert len(program.operator.asked) == 2


def test_adapter_is_loaded_with_a_scale_only_when_one_is_given(program: Program) -> None:
    assert DIGEST in program.ok("adapter", "load", "acme/c.json")
    program.ok("adapter", "load", "acme/c.json", "--scale", "0.8", "--model", "q")
    program.ok("adapter", "unload", DIGEST)
    plain, scaled, gone = program.operator.asked
    assert isinstance(plain, pb.LoadAdapterRequest) and not plain.HasField("scale")
    assert scaled == pb.LoadAdapterRequest(manifest="acme/c.json", model="q", scale=0.8)
    assert gone == pb.UnloadAdapterRequest(digest=DIGEST)


def test_purge_is_not_done_unasked(program: Program) -> None:
    result = program.run("purge", "acme")
    assert isinstance(result.exception, CliError)
    assert "--yes" in result.exception.mend
    assert program.operator.asked == []
    assert "Ended 2 requests; freed 300 KV cells and 1.5 MB" in program.ok("purge", "acme", "--yes")


def test_usage_is_read_page_by_page_up_to_the_limit(program: Program) -> None:
    shown = program.ok("usage", "--limit", "1100", "--tenant", "acme").splitlines()
    assert len(shown) == 1 + 1_100
    assert shown[1].split()[-2:] == ["runs", "call0"]
    assert shown[2].split()[-2:] == ["length", "call1"]
    assert "9f9f9f9f9f9f " in shown[2]
    sizes = [request.page_size for request in program.operator.asked if isinstance(request, pb.ListUsageRecordsRequest)]
    assert sizes == [1_000, 100]
    assert len(program.ok("usage", "--limit", "5000").splitlines()) == 1 + 1_200
