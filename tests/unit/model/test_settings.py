"""Settings of the model service."""

from pathlib import Path

import pytest

from redoma_model import settings
from redoma_model.engine.hardware import CellBudget, physical_cores, share_cores
from redoma_model.settings import ModelSettings, SamplingSettings, default_sampling, model_id_of


@pytest.mark.parametrize(
    ("file", "model_id"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf", "deepseek-r1-distill-qwen-1.5b"),
        ("tiny-f16.gguf", "tiny"),
        ("big.IQ2_XXS-00001-of-00003.gguf", "big"),
        ("qwen2.5-0.5b.gguf", "qwen2.5-0.5b"),
        ("My Model.gguf", "my-model"),
    ],
)
def test_model_id_is_made_of_the_file_name(file: str, model_id: str) -> None:
    assert model_id_of(Path(file)) == model_id


def test_default_sampling_prefers_operator_then_metadata_then_makers() -> None:
    name = "DeepSeek R1 Distill Qwen 1.5B"
    assert default_sampling(name, {}, SamplingSettings()).temperature == 0.6
    assert default_sampling(name, {"temperature": 0.5}, SamplingSettings()).temperature == 0.5
    assert default_sampling(name, {"temperature": 0.5}, SamplingSettings(temperature=0.7)).temperature == 0.7


def test_cells_hold_a_window_and_stay_within_memory() -> None:
    assert CellBudget(23_040, None).cells(16, 8_192) == 32_768
    assert CellBudget(23_040, 23_040 * 4 * 10_000).cells(16, 8_192) == 10_240
    assert CellBudget(23_040, 0).cells(16, 8_192) == 8_192


def test_there_is_a_core() -> None:
    assert physical_cores() >= 1


def test_operator_decides_how_threads_wait() -> None:
    ours: dict[str, str] = {}
    share_cores(ours)
    assert set(ours) == {"GOMP_SPINCOUNT"}
    for chosen in ({"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "1"}):
        before = dict(chosen)
        share_cores(chosen)
        assert chosen == before


def made(**fields: object) -> ModelSettings:
    """Makes settings of a model file `base.gguf`."""
    tls = {"ca_file": "ca", "cert_file": "cert", "key_file": "key"}
    return ModelSettings(tls=tls, jwks_file=Path("jwks"), file=Path("base.gguf"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"models": [{"file": "base.Q4_1.gguf"}]}, "the id base"),
        ({"models": [{"file": "a.gguf"}, {"file": "b.gguf", "name": "a"}]}, "the id a"),
        ({"aliases": {"x": "nothing"}}, "which is no model"),
        ({"aliases": {"base": "base"}}, "can't be an alias"),
        ({"aliases": {"": "base"}}, "can't be an alias"),
        ({"aliases": {"a b": "base"}}, "can't be an alias"),
        ({"models": [{"file": "a.gguf", "slots": 100}], "step_tokens": 64}, "too many for step_tokens"),
        ({"dedicated_tenant": "Not A Tenant"}, "dedicated_tenant"),
    ],
)
def test_models_that_can_not_be_told_apart_are_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        made(**fields)


def test_another_model_is_as_the_first_where_nothing_is_said() -> None:
    first = made(slots=8, kv_cells=9_999, context_tokens=512, name="first")
    other = first.for_model(Path("other.gguf"), "", 0, 0, 0)
    assert (other.model_id, other.slots, other.context_tokens, other.kv_cells) == ("other", 8, 512, 0)
    other = first.for_model(Path("other.gguf"), "second", 2, 1_024, 64)
    assert (other.model_id, other.slots, other.context_tokens, other.kv_cells) == ("second", 2, 64, 1_024)
    assert first.model_id == "first"


@pytest.mark.parametrize(("free", "host_cache"), [(2 << 30, 256 << 20), (64 << 30, 1 << 30)])
def test_cached_prefixes_take_a_small_part_of_little_memory(
    monkeypatch: pytest.MonkeyPatch, free: int, host_cache: int
) -> None:
    monkeypatch.setattr(settings, "available_memory_bytes", lambda: free)
    assert made().limits.core.places.host_cache_bytes == host_cache
    chosen = made(host_cache_mib=7)
    assert chosen.limits.core.places.host_cache_bytes == 7 << 20
