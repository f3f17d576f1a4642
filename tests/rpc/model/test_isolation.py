"""What was computed for one tenant, or under one adapter, serves nobody else: by the counts reported and by what the
engine computed, never by the clock."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from redoma_model.engine.hardware import share_cores
from tests.conftest import TestPki
from tests.rpc.model.conftest import Answer, Serve, Service, model_settings, read

ASKED = {"temperature": 0.0, "max_output_tokens": 2, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
PROMPT = "The patient of ward seven asked what the dome is made of. " * 12
SMALL: dict[str, object] = {"context_tokens": 1_024, "slots": 2, "kv_cells": 4_096}
# Logits differ by this much when cells lie elsewhere in the KV cache.
TOLERANCE = 1.0


async def ask(service: Service, prompt: str = PROMPT, **claims: object) -> tuple[Answer, int]:
    """Asks, and gives the answer with how many prompt tokens the engine computed for it."""
    before = (await service.server.engine.snapshot()).prefill_tokens
    answer = await read(service.generate(prompt, sampling=ASKED, claims=claims))
    return answer, (await service.server.engine.snapshot()).prefill_tokens - before


def likeliest(answer: Answer) -> dict[int, float]:
    """Gives the log probabilities of the likeliest first tokens."""
    entry = answer.deltas[0].logprobs[0]
    return {rival.token_id: rival.logprob for rival in entry.top}


def apart(one: dict[int, float], other: dict[int, float]) -> float:
    """Gives how far apart the ten likeliest tokens of the first are in the second."""
    leading = sorted(one, key=one.__getitem__)[-10:]
    return max(abs(one[token] - other.get(token, -20.0)) for token in leading)


async def test_probe_of_the_cache_finds_only_what_is_ones_own(service: Service) -> None:
    first, first_computed = await ask(service, tenant="acme")
    probe, probe_computed = await ask(service, tenant="globex")
    again, again_computed = await ask(service, tenant="acme")

    size = first.done.usage.input_tokens
    assert (first.done.usage.cached_input_tokens, first_computed) == (0, size)
    assert (probe.done.usage.cached_input_tokens, probe_computed) == (0, size)
    cached = again.done.usage.cached_input_tokens
    assert size - 8 <= cached < size
    assert again_computed == size - cached


async def test_another_tenants_text_inside_a_prompt_finds_nothing(service: Service) -> None:
    await ask(service, tenant="acme")
    answer, computed = await ask(service, PROMPT + "And more.", tenant="globex")
    assert (answer.done.usage.cached_input_tokens, computed) == (0, answer.done.usage.input_tokens)


async def test_public_prefix_is_computed_once_and_cached_for_nobody(serve: Serve, pki: TestPki) -> None:
    share_cores(os.environ)
    from redoma_model.loading import LlamaModels

    system = "You answer for a hospital, briefly and kindly. " * 6
    async with serve(LlamaModels()(model_settings(pki, **SMALL)), public_prefixes=(system,), **SMALL) as service:
        for tenant in ("acme", "globex"):
            before = (await service.server.engine.snapshot()).prefill_tokens
            answer = await read(
                service.generate(
                    ("system", system), ("user", "When can I visit?"), sampling=ASKED, claims={"tenant": tenant}
                )
            )
            computed = (await service.server.engine.snapshot()).prefill_tokens - before
            assert answer.done.usage.cached_input_tokens == 0
            assert computed < answer.done.usage.input_tokens / 2


@pytest.fixture
async def two_services(
    serve: Serve, pki: TestPki, adapters: dict[str, str], tmp_path: Path
) -> AsyncIterator[tuple[Service, Service]]:
    """Two services over the same weights and adapters; nothing was asked of either."""
    share_cores(os.environ)
    from redoma_model.loading import LlamaModels

    chosen = SMALL | {"adapters_dir": tmp_path}
    load = LlamaModels()(model_settings(pki, **chosen))
    async with serve(load, **chosen) as used, serve(load, **chosen) as fresh:
        yield used, fresh


async def test_same_prompt_under_two_adapters_gives_each_its_own_logits(
    two_services: tuple[Service, Service], adapters: dict[str, str]
) -> None:
    used, fresh = two_services
    base, _ = await ask(used, tenant="acme")
    tuned: dict[str, Answer] = {}
    for tenant, adapter in adapters.items():
        tuned[tenant], computed = await ask(used, tenant=tenant, adapter=adapter, isolation="SHARED_TUNED")
        # The base model's cells of the same tenant and prompt are of no use either.
        assert tuned[tenant].done.usage.cached_input_tokens == 0
        assert computed == tuned[tenant].done.usage.input_tokens
    assert apart(likeliest(tuned["acme"]), likeliest(tuned["globex"])) > 2 * TOLERANCE
    assert apart(likeliest(tuned["acme"]), likeliest(base)) > 2 * TOLERANCE

    for tenant, adapter in adapters.items():
        warm, _ = await ask(used, tenant=tenant, adapter=adapter, isolation="SHARED_TUNED")
        alone, _ = await ask(fresh, tenant=tenant, adapter=adapter, isolation="SHARED_TUNED")
        assert warm.done.usage.cached_input_tokens > 0
        for answer in (tuned[tenant], warm):
            assert apart(likeliest(alone), likeliest(answer)) < TOLERANCE
