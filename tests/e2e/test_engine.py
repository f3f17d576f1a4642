"""The operators' side of a whole site: EngineService through the edge, and `redoma engine`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from redoma.model.v1 import engine_pb2, engine_pb2_grpc
from tests.e2e.conftest import Site, wait_until
from tests.e2e.test_grpc import reason_of

SERVICE = engine_pb2.DESCRIPTOR.services_by_name["EngineService"]
MODEL = Path(__file__).parents[2] / ".tools/models/SmolLM2-135M-Instruct.Q4_1.gguf"


def call(channel: grpc.Channel, method: str, metadata: tuple[tuple[str, str], ...]) -> None:
    """Makes a call with an empty request and reads what comes first."""
    raw: Callable[..., object] = channel.unary_stream(f"/{SERVICE.full_name}/{method}")
    next(raw(b"", metadata=metadata, timeout=60))  # type: ignore[call-overload]


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_engine_is_for_the_platforms_administrators_alone(site: Site, method: str) -> None:
    tenant_admin = json.loads(site.redoma("key", "create", "acme", "--scope", "tenant.admin", "--json").stdout)
    with site.channel() as channel:
        for metadata, reason in (
            (site.bearer(), "SCOPE_MISSING"),
            ((("authorization", f"Bearer {tenant_admin['secret']}"),), "SCOPE_MISSING"),
            ((), "CREDENTIAL_INVALID"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, method, metadata)
            assert reason_of(caught.value) == reason


def test_state_and_usage_tell_of_a_tenants_call_and_not_what_it_said(site: Site) -> None:
    answer = site.openai("acme").chat.completions.create(
        model="smollm2-135m-instruct", messages=[{"role": "user", "content": "Say qwyxz."}], max_tokens=5
    )
    assert answer.usage is not None
    with site.channel() as channel:
        stub = engine_pb2_grpc.EngineServiceStub(channel)
        metadata = (("authorization", f"Bearer {site.admin_key}"),)
        state = stub.GetEngineState(engine_pb2.GetEngineStateRequest(), metadata=metadata, timeout=60).state
        assert state.models[0].model.id == "smollm2-135m-instruct"
        assert "acme" in {tenant.tenant for tenant in state.models[0].tenants}
        for _ in stub.WatchEngine(engine_pb2.WatchEngineRequest(), metadata=metadata, timeout=60):
            break
    shown = json.loads(site.redoma("engine", "usage", "--tenant", "acme", "--limit", "1", "--json").stdout)
    assert int(shown[0]["usage"]["output_tokens"]) == answer.usage.completion_tokens
    assert int(shown[0]["usage"]["input_tokens"]) == answer.usage.prompt_tokens
    assert b"qwyxz" not in state.SerializeToString()
    top = site.redoma("engine", "top", "--once").stdout
    assert "smollm2-135m-instruct" in top and "acme" in top
    assert "Ended 0 requests" in site.redoma("engine", "purge", "acme", "--yes").stdout


def test_model_is_loaded_named_used_and_unloaded_while_the_site_runs(site: Site) -> None:
    folder = site.home / "models"
    folder.mkdir(exist_ok=True)
    shutil.copy(MODEL, folder / "second.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF\x03")
    small = ("--slots", "2", "--kv-cells", "2048", "--context-tokens", "1024")
    try:
        assert "Serving second" in site.redoma("engine", "load", "second.gguf", *small).stdout
        refused = site.redoma("engine", "load", "broken.gguf", check=False)
        assert refused.returncode == 1
        assert "mend:" in refused.stderr
        site.redoma("engine", "alias", "gpt-4o", "second")
        client = site.openai("acme")
        assert "second" in {model.id for model in client.models.list()}
        answer = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Say hello."}], max_tokens=4
        )
        assert answer.model == "second"
        site.redoma("engine", "unload", "second")
        assert "second" not in {model.id for model in client.models.list()}
        assert "second" not in site.redoma("engine", "models").stdout
    finally:
        shutil.rmtree(folder)
    refused = site.redoma("engine", "unload", "smollm2-135m-instruct", check=False)
    assert "stays" in refused.stderr
    wait_until(site.ready, "the site to be ready")
