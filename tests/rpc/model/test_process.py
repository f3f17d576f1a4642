"""The `redoma-model` process: start, SIGTERM, and model files that are none."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma.common.v1 import usage_pb2
from redoma.common.v1.sampling_pb2 import SamplingOptions
from redoma.model.v1 import model_pb2 as pb
from redoma.model.v1.model_pb2_grpc import ModelServiceStub
from redoma_kit.channel import open_channel
from redoma_kit.settings import UpstreamSettings
from tests.conftest import TestPki
from tests.rpc.model.conftest import MODEL_FILE, conversation

PATIENCE_S = 120


def environment(pki: TestPki, file: Path, port: int) -> dict[str, str]:
    tls = pki.tls("private", "model")
    return os.environ | {
        "REDOMA_MODEL_LISTEN": f"127.0.0.1:{port}",
        "REDOMA_MODEL_FILE": str(file),
        "REDOMA_MODEL_JWKS_FILE": str(pki.jwks_file),
        "REDOMA_MODEL_TLS__CA_FILE": str(tls.ca_file),
        "REDOMA_MODEL_TLS__CERT_FILE": str(tls.cert_file),
        "REDOMA_MODEL_TLS__KEY_FILE": str(tls.key_file),
        "REDOMA_MODEL_SLOTS": "2",
        "REDOMA_MODEL_KV_CELLS": "8192",
    }


@asynccontextmanager
async def process(pki: TestPki, file: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "redoma_model",
        env=environment(pki, file, port),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def serving(channel: grpc.aio.Channel) -> None:
    """Waits until health says SERVING."""
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    async for answer in stub.Watch(request, wait_for_ready=True, timeout=PATIENCE_S):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return


async def test_sigterm_lets_a_running_stream_finish_and_exits_with_0(pki: TestPki, free_port: int) -> None:
    async with process(pki, MODEL_FILE, free_port) as child:
        assert child.stderr is not None
        log = asyncio.create_task(child.stderr.read())
        target = UpstreamSettings(target=f"127.0.0.1:{free_port}", server_name="model.private.redoma")
        async with open_channel(target, pki.tls("public", "chat"), 1 << 20) as channel:
            await serving(channel)
            call = ModelServiceStub(channel).Generate(
                pb.GenerateRequest(
                    messages=conversation("A long story about a secret."),
                    sampling=SamplingOptions(max_output_tokens=40, ignore_eos=True),
                ),
                metadata=pki.metadata(["model"]),
            )
            assert (await call.read()).WhichOneof("event") == "started"
            child.send_signal(signal.SIGTERM)
            events = [event async for event in _rest(call)]
        assert events[-1].done.finish_reason == usage_pb2.FINISH_REASON_LENGTH
        assert events[-1].done.usage.output_tokens == 40
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0
        text = (await log).decode()
        assert "Loaded" in text
        assert "secret" not in text


async def _rest(call: object) -> AsyncIterator[pb.GenerateResponse]:
    while (event := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
        yield event


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "can't be read"),
        (b"<html>not a model</html>" * 10, "is not a GGUF model"),
        (b"GGUF\x03", "is cut short"),
        ("half", "is cut short"),
    ],
)
async def test_file_that_is_no_model_is_one_sentence_and_exit_1(
    pki: TestPki, tmp_path: Path, free_port: int, content: bytes | str | None, reason: str
) -> None:
    file = tmp_path / "broken.gguf"
    if content == "half":
        with MODEL_FILE.open("rb") as whole:
            content = whole.read(20 << 20)
    if isinstance(content, bytes):
        file.write_bytes(content)
    async with process(pki, file, free_port) as child:
        _, stderr = await asyncio.wait_for(child.communicate(), PATIENCE_S)
        assert child.returncode == 1
        last = stderr.decode().strip().splitlines()[-1]
        assert last.startswith("redoma-model: ")
        assert str(file) in last
        assert reason in last
        assert "Traceback" not in stderr.decode()
