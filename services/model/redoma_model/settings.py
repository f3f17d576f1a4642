"""Settings of the model service."""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import SettingsConfigDict

from redoma_kit.settings import ServiceSettings
from redoma_model.engine.engine import EngineLimits
from redoma_model.engine.sampling import Sampling

STEP_TOKENS_CPU = 64
STEP_TOKENS_GPU = 512
CacheType = Literal["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
_QUANTIZATION = re.compile(r"[.-](?:i?q\d\w*|[bf]{1,2}(?:p)?(?:16|32)|mxfp4|nvfp4)$", re.IGNORECASE)


class SamplingSettings(BaseModel):
    """Sampling where a request says nothing; unset is what the model's metadata recommends, or an ordinary value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(None, ge=0, le=2, description="Divides the logits; 0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Keeps tokens up to this probability in all.")
    top_k: int | None = Field(None, ge=0, description="Keeps this many tokens; 0 keeps all.")
    min_p: float | None = Field(None, ge=0, le=1, description="Drops tokens below this part of the best one.")
    repeat_penalty: float | None = Field(None, gt=0, le=10, description="Makes tokens seen before less probable.")

    def given(self) -> dict[str, float]:
        """Gives the values that are set."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class GpuSettings(BaseModel):
    """What runs on which device. Devices are listed in the log at start; a build without GPU support ignores layers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int = Field(0, ge=-1, description="Layers to offload; -1 is all.")
    devices: tuple[str, ...] = Field((), description="Names of the devices to use; empty is all.")
    main_gpu: int = Field(0, ge=0, description="Index of the device for what is not split.")
    split_mode: Literal["none", "layer", "row"] = Field("layer", description="How a model is spread over devices.")


class ModelSettings(ServiceSettings):
    """What the model service can be told."""

    model_config = SettingsConfigDict(env_prefix="REDOMA_MODEL_")

    file: Path = Field(description="The model, a GGUF file; the first one of a split model.")
    name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._:/-]{0,128}$",
        description="The model's id for callers; empty makes it of the file name.",
    )
    context_tokens: int = Field(8_192, ge=64, description="Context window of one request, at most the model's own.")
    slots: int = Field(16, ge=1, le=256, description="How many requests are computed at once.")
    kv_cells: int = Field(0, ge=0, description="Tokens the KV cache holds for all; 0 sizes it by slots and memory.")
    headroom_tokens: int = Field(
        256, ge=1, description="KV cells set aside for an answer on admission; when cells run out the youngest waits."
    )
    step_tokens: int = Field(
        0, ge=0, le=8_192, description="Most tokens of one step; 0 is 64 on a CPU and 512 on a GPU."
    )
    max_waiting: int = Field(256, ge=0, description="Most requests that wait; more are refused at once.")
    max_undelivered_tokens: int = Field(2_048, ge=1, description="Most tokens a slow reader may leave unread.")
    threads: int = Field(0, ge=0, le=1_024, description="Threads that compute; 0 is one for each physical core.")
    flash_attention: Literal["auto", "on", "off"] = Field("auto", description="Flash attention.")
    cache_type_k: CacheType = Field("f16", description="Type of the cached keys.")
    cache_type_v: CacheType = Field("f16", description="Type of the cached values; quantized needs flash attention.")
    mmap: bool = Field(True, description="Map the weights instead of reading them.")
    mlock: bool = Field(False, description="Lock the weights in memory.")
    gpu: GpuSettings = GpuSettings()
    sampling: SamplingSettings = SamplingSettings()

    @model_validator(mode="after")
    def _check(self) -> "ModelSettings":
        if self.effective_step_tokens <= self.slots:
            raise ValueError(f"step_tokens ({self.effective_step_tokens}) must be more than slots ({self.slots}).")
        return self

    @property
    def effective_step_tokens(self) -> int:
        """Most tokens of one step, when left to us: enough for each slot and a chunk of a prompt."""
        default = STEP_TOKENS_GPU if self.gpu.layers else max(STEP_TOKENS_CPU, 2 * self.slots)
        return self.step_tokens or default

    @property
    def model_id(self) -> str:
        """The model's id: its name, or the file's without what it is quantized to."""
        return self.name or model_id_of(self.file)

    @property
    def limits(self) -> EngineLimits:
        """The engine's bounds."""
        return EngineLimits(
            self.effective_step_tokens, self.headroom_tokens, self.max_waiting, self.max_undelivered_tokens
        )


def model_id_of(file: Path) -> str:
    """Makes an id of a model file's name: `SmolLM2-135M-Instruct.Q4_1.gguf` is `smollm2-135m-instruct`."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", file.name.removesuffix(".gguf"))
    return re.sub(r"[^a-z0-9._-]+", "-", _QUANTIZATION.sub("", stem).lower()) or "model"


def default_sampling(display_name: str, recommended: dict[str, float], chosen: SamplingSettings) -> Sampling:
    """Gives a model's default sampling: what the operator chose, or its metadata recommends, or its makers advise."""
    values: dict[str, float] = {}
    if "deepseek-r1" in display_name.lower().replace(" ", "-"):
        values |= {"temperature": 0.6, "top_p": 0.95}
    values |= recommended | chosen.given()
    ordinary = Sampling()
    return Sampling(
        temperature=values.get("temperature", ordinary.temperature),
        top_p=values.get("top_p", ordinary.top_p),
        top_k=int(values.get("top_k", ordinary.top_k)),
        min_p=values.get("min_p", ordinary.min_p),
        repeat_penalty=values.get("repeat_penalty", ordinary.repeat_penalty),
    )
