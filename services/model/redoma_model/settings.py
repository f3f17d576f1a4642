"""Settings of the model service."""

import re
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import SettingsConfigDict

from redoma_kit.settings import ServiceSettings
from redoma_model.engine.core import CoreLimits
from redoma_model.engine.engine import EngineLimits
from redoma_model.engine.hardware import available_memory_bytes
from redoma_model.engine.pace import PaceLimits
from redoma_model.engine.places import PlaceLimits
from redoma_model.engine.sampling import Sampling

STEP_TOKENS_CPU = 64
STEP_TOKENS_GPU = 512
MOST_HOST_CACHE_BYTES = 1 << 30
CacheType = Literal["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
MODEL_ID = r"^[A-Za-z0-9._:/-]{0,128}$"
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


class ExtraModelSettings(BaseModel):
    """A model loaded at the start besides the first; slots and context window are the first one's where it has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(description="The model, a GGUF file.")
    name: str = Field("", pattern=MODEL_ID, description="Its id for callers; empty makes it of the file name.")
    slots: int = Field(0, ge=0, le=128, description="How many of its requests are computed at once.")
    kv_cells: int = Field(0, ge=0, description="Tokens its KV cache holds for all; 0 sizes it by slots and memory.")
    context_tokens: int = Field(0, ge=0, description="Context window of one of its requests.")


class ModelSettings(ServiceSettings):
    """What the model service can be told."""

    model_config = SettingsConfigDict(env_prefix="REDOMA_MODEL_")

    file: Path = Field(description="The model, a GGUF file; the first one of a split model.")
    name: str = Field(
        "",
        pattern=MODEL_ID,
        description="The model's id for callers; empty makes it of the file name.",
    )
    context_tokens: int = Field(8_192, ge=64, description="Context window of one request, at most the model's own.")
    slots: int = Field(16, ge=1, le=128, description="How many requests are computed at once.")
    kv_cells: int = Field(0, ge=0, description="Tokens the KV cache holds for all; 0 sizes it by slots and memory.")
    headroom_tokens: int = Field(
        256, ge=1, description="KV cells set aside for an answer on admission; beyond them a request may have to pause."
    )
    step_tokens: int = Field(
        0, ge=0, le=8_192, description="Most tokens of one step; 0 is 512 on a GPU, else 64, or two for each place."
    )
    step_stretch: float = Field(
        2.7, ge=1, le=20, description="How many times as long as one that only generates a step with prompts may take."
    )
    inter_token_ms: int = Field(
        0, ge=0, le=60_000, description="Time between two tokens of a stream to aim at; 0 leaves it to step_stretch."
    )
    spare_slots: int = Field(
        4, ge=0, le=64, description="Requests beyond slots that are computed at once, for tenants that have none."
    )
    prefix_cache: bool = Field(True, description="Keep computed prefixes of prompts for their tenant.")
    host_cache_mib: int | None = Field(
        None,
        ge=0,
        description="Host memory for cached prefixes that left the KV cache. "
        "Unset: an eighth of what is free at the start, at most 1,024.",
    )
    idle_prefix_cells: int | None = Field(
        None,
        ge=0,
        description="KV cells that prefixes may keep which no request uses; the others go to host memory. "
        "Unset: none on CPUs, where each makes every step longer, and any number on a GPU.",
    )
    swap_mib: int = Field(
        1_024,
        ge=0,
        description="Host memory for requests that gave their place up for a time, and to move cells together by.",
    )
    speculation: bool = Field(True, description="Draft tokens by prompt lookup, where that pays.")
    public_prefixes: tuple[str, ...] = Field(
        (), max_length=16, description="System prompts whose computed prefix all tenants share."
    )
    max_waiting: int = Field(256, ge=0, description="Most requests that wait; more are refused at once.")
    max_waiting_per_tenant: int = Field(128, ge=0, description="Most of them of one tenant.")
    max_undelivered_tokens: int = Field(2_048, ge=1, description="Most tokens a slow reader may leave unread.")
    max_step_s: float = Field(
        60, gt=0, description="The longest a step may last, in seconds; the process ends then, to be started again."
    )
    threads: int = Field(0, ge=0, le=1_024, description="Threads that compute; 0 is one for each physical core.")
    flash_attention: Literal["auto", "on", "off"] = Field("auto", description="Flash attention.")
    cache_type_k: CacheType = Field("f16", description="Type of the cached keys.")
    cache_type_v: CacheType = Field("f16", description="Type of the cached values; quantized needs flash attention.")
    mmap: bool = Field(True, description="Map the weights instead of reading them.")
    mlock: bool = Field(False, description="Lock the weights in memory.")
    gpu: GpuSettings = GpuSettings()
    sampling: SamplingSettings = SamplingSettings()
    models_dir: Path | None = Field(None, description="Folder of the models that can be loaded while the service runs.")
    adapters_dir: Path | None = Field(
        None, description="Folder of LoRA adapters and their manifests; those found at the start are loaded."
    )
    models: tuple[ExtraModelSettings, ...] = Field(
        (), description="More models to load at the start: file, name, slots, kv_cells and context_tokens of each."
    )
    aliases: dict[str, str] = Field({}, description="Names that stand for models, with the id of each one's model.")
    dedicated_tenant: str = Field(
        "", pattern=r"^([a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$", description="The tenant to serve alone; empty serves any."
    )
    usage_records: int = Field(10_000, ge=1, le=1_000_000, description="How many usage records are kept.")

    @model_validator(mode="after")
    def _check(self) -> "ModelSettings":
        places = self.slots + self.spare_slots
        if not self.step_holds_slots:
            raise ValueError(
                f"step_tokens ({self.effective_step_tokens}) must be more than slots and spare_slots ({places})."
            )
        return self

    @model_validator(mode="after")
    def _check_names(self) -> "ModelSettings":
        for model in self.models:
            if model.slots and not self.model_copy(update={"slots": model.slots}).step_holds_slots:
                raise ValueError(f"models: {model.slots} slots are too many for step_tokens ({self.step_tokens}).")
        ids = [self.model_id, *(model.name or model_id_of(model.file) for model in self.models)]
        for model_id in ids:
            if ids.count(model_id) > 1:
                raise ValueError(f"models: two models have the id {model_id}; give one another name.")
        for alias, model_id in self.aliases.items():
            if model_id not in ids:
                raise ValueError(f"aliases: {alias} stands for {model_id}, which is no model here.")
            if alias in ids or not re.fullmatch(MODEL_ID, alias) or not alias:
                raise ValueError(f"aliases: {alias!r} can't be an alias: it is a model's id, or has no form of one.")
        return self

    @property
    def step_holds_slots(self) -> bool:
        """Whether a step has room for a token of each slot and something of a prompt."""
        return self.effective_step_tokens > self.slots + self.spare_slots

    @property
    def effective_step_tokens(self) -> int:
        """Most tokens of one step; left to us, enough for each slot and a chunk of a prompt."""
        default = STEP_TOKENS_GPU if self.gpu.layers else max(STEP_TOKENS_CPU, 2 * (self.slots + self.spare_slots))
        return self.step_tokens or default

    @property
    def host_cache_bytes(self) -> int:
        """Host memory for cached prefixes; left to us, little enough for what else the process holds."""
        if self.host_cache_mib is not None:
            return self.host_cache_mib << 20
        return min(MOST_HOST_CACHE_BYTES, available_memory_bytes() // 8)

    @property
    def effective_idle_cells(self) -> int:
        """KV cells that prefixes may keep which no request uses."""
        if self.idle_prefix_cells is not None:
            return self.idle_prefix_cells
        return sys.maxsize if self.gpu.layers else 0

    @property
    def model_id(self) -> str:
        """The model's id: its name, or the file's without what it is quantized to."""
        return self.name or model_id_of(self.file)

    def for_model(self, file: Path, name: str, slots: int, kv_cells: int, context_tokens: int) -> "ModelSettings":
        """Gives the settings of another model of this process; 0 slots or context tokens are as here."""
        changed = {
            "file": file,
            "name": name,
            "slots": slots or self.slots,
            "kv_cells": kv_cells,
            "context_tokens": context_tokens or self.context_tokens,
        }
        return self.model_copy(update=changed)

    @property
    def limits(self) -> EngineLimits:
        """The engine's bounds."""
        return EngineLimits(
            core=CoreLimits(
                pace=PaceLimits(self.effective_step_tokens, self.step_stretch, self.inter_token_ms / 1_000),
                places=PlaceLimits(
                    spare_slots=self.spare_slots,
                    headroom_tokens=self.headroom_tokens,
                    prefix_cache=self.prefix_cache,
                    host_cache_bytes=self.host_cache_bytes,
                    idle_cells=self.effective_idle_cells,
                    swap_bytes=self.swap_mib << 20,
                    compaction=not self.gpu.layers,
                ),
                speculation=self.speculation,
            ),
            max_waiting=self.max_waiting,
            max_waiting_per_tenant=self.max_waiting_per_tenant,
            max_undelivered_tokens=self.max_undelivered_tokens,
            max_step_s=self.max_step_s,
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
