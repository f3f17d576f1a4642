"""Adapters and several models on llama.cpp itself: two tenants on two adapters, two engines that take turns."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from redoma.model.v1 import model_pb2
from redoma_model.engine.hardware import share_cores
from tests.conftest import TestPki
from tests.rpc.model.conftest import MODEL_FILE, Serve, Service, model_settings, read

SAME = {"temperature": 0.0, "max_output_tokens": 1, "logprobs": True, "top_logprobs": 20}
SMALL = {"context_tokens": 512, "slots": 2, "kv_cells": 1_024}


@pytest.fixture
async def service(serve: Serve, pki: TestPki, adapters: dict[str, str], tmp_path: Path) -> AsyncIterator[Service]:
    """A service of two models of the same file, and the adapters."""
    share_cores(os.environ)
    from redoma_model.loading import LlamaModels

    second = {"file": MODEL_FILE, "name": "second", **SMALL}
    chosen: dict[str, object] = {"adapters_dir": tmp_path, "prefix_cache": False, **SMALL}
    load = LlamaModels()(model_settings(pki, **chosen))
    async with serve(load, models=[second], **chosen) as running:
        yield running


async def first_token(service: Service, model: str, **claims: object) -> dict[int, float]:
    """Gives the log probabilities of the likeliest first tokens of an answer."""
    answer = await read(service.generate("The sea is", model=model, sampling=SAME, claims=claims))
    (entry,) = answer.deltas[0].logprobs
    return {rival.token_id: rival.logprob for rival in entry.top}


def far(one: dict[int, float], other: dict[int, float]) -> float:
    """Gives how far apart the likeliest tokens of two are."""
    return max(abs(logprob - other.get(token, -20.0)) for token, logprob in one.items())


async def test_each_tenant_is_answered_under_its_own_adapter(service: Service, adapters: dict[str, str]) -> None:
    acme, globex, base, again = [
        await first_token(service, "", tenant=tenant, adapter=adapter, isolation=isolation)
        for tenant, adapter, isolation in (
            ("acme", adapters["acme"], "SHARED_TUNED"),
            ("globex", adapters["globex"], "SHARED_TUNED"),
            ("initech", "", "SHARED"),
            ("acme", adapters["acme"], "SHARED_TUNED"),
        )
    ]
    assert far(acme, again) < 0.01
    for one, other in ((acme, globex), (acme, base), (globex, base)):
        assert far(one, other) > 1


async def test_engines_of_two_models_take_turns_and_both_end(service: Service) -> None:
    asked = {"max_output_tokens": 40, "ignore_eos": True}
    calls = [service.generate("Tell a story.", model=name, sampling=asked) for name in ("", "second", "second")]
    answers = await asyncio.gather(*map(read, calls))
    assert [answer.done.usage.output_tokens for answer in answers] == [40, 40, 40]
    assert far(await first_token(service, ""), await first_token(service, "second")) < 0.01
    listed = await service.stub.ListModels(model_pb2.ListModelsRequest(), metadata=service.metadata())
    assert {model.slots for model in listed.models} == {2}
