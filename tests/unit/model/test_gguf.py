"""Model files that are broken, cut short or incomplete: one clear sentence each, before llama.cpp sees them."""

import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from redoma_model.engine.gguf import HEADER, read_gguf, read_model, recommended_sampling
from redoma_model.engine.llama_options import LlamaOptions
from redoma_model.engine.memory import estimate_memory, shape_of
from redoma_model.errors import ModelFileError

MODEL = Path(__file__).parents[3] / ".tools/models/SmolLM2-135M-Instruct.Q4_1.gguf"
MIB = 1 << 20


def write_gguf(path: Path, **numbers: int) -> Path:
    """Writes a small GGUF file; `numbers` are metadata, with _ for the dots of their names."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_float32("general.sampling.temp", 0.5)
    for name, number in numbers.items():
        writer.add_uint16(name.replace("_", "."), number)
    for index in range(3):
        writer.add_tensor(f"tensor.{index}", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_header_tells_what_the_file_holds(tmp_path: Path) -> None:
    header = read_gguf(write_gguf(tmp_path / "model.gguf"))
    assert header.text("general.architecture") == "llama"
    assert header.lengths == {"tokenizer.ggml.tokens": 3}
    assert [(one.name, one.shape, one.size) for one in header.tensors] == [
        (f"tensor.{index}", (32, 4), 512) for index in range(3)
    ]
    assert recommended_sampling(header) == {"temperature": 0.5}


def test_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for size in range(4, len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ModelFileError, match="is cut short"):
            read_gguf(path)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.999])
def test_real_model_cut_short_is_refused(tmp_path: Path, part: float) -> None:
    path = tmp_path / "cut.gguf"
    path.symlink_to(MODEL)
    whole = MODEL.stat().st_size
    path.unlink()
    with MODEL.open("rb") as source, path.open("wb") as target:
        os.sendfile(target.fileno(), source.fileno(), 0, 4 * MIB)
        target.truncate(4 + int((whole - 4) * part))
    with pytest.raises(ModelFileError, match="is cut short"):
        read_model(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "does not begin with the letters GGUF"),
        (b"<html>not a model</html>", "does not begin with the letters GGUF"),
        (HEADER.pack(b"GGUF", 1, 0, 0), "version 1"),
        (HEADER.pack(b"GGUF", 3 << 24, 0, 0), "another byte order"),
        (HEADER.pack(b"GGUF", 3, 1 << 60, 0), "claims"),
        (HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 99), "type 99"),
        (HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 4, 1 << 60), "claims a list"),
        (HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", 2**64 - 1), "is cut short"),
        (HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQQ", 1, b"k", 9, 8, 2, 2**64 - 1), "is cut short"),
        (HEADER.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sI", 1, b"t", 99), "99 dimensions"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=problem):
        read_gguf(path)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(ModelFileError, match="can't be read"):
            read_gguf(path)


def test_split_model_needs_all_its_parts(tmp_path: Path) -> None:
    parts = [write_gguf(tmp_path / f"m-{part:05}-of-00003.gguf", split_count=3) for part in (1, 2, 3)]
    assert len(read_model(parts[0])) == 3
    with pytest.raises(ModelFileError, match="not the first"):
        read_model(parts[1])
    parts[1].unlink()
    with pytest.raises(ModelFileError, match="m-00002-of-00003"):
        read_model(parts[0])
    renamed = parts[0].rename(tmp_path / "other.gguf")
    with pytest.raises(ModelFileError, match="not the first"):
        read_model(renamed)


def test_memory_follows_from_the_header() -> None:
    shape = shape_of(read_model(MODEL))
    options = LlamaOptions(MODEL, cells=4_096, cache_type_k="f16", cache_type_v="f16")
    estimate = estimate_memory(shape, options, 1 << 40, False)
    assert abs(estimate.weights_bytes - MODEL.stat().st_size) < 4 * MIB
    # 30 layers of 3 heads of 64 values, keys and values, 2 bytes each.
    assert estimate.cache_bytes == 4_096 * 30 * 3 * 64 * 2 * 2
    assert estimate.fits
    smaller = estimate_memory(shape, LlamaOptions(MODEL, cells=4_096, cache_type_v="q4_0"), 1 << 40, False)
    assert smaller.cache_bytes < estimate.cache_bytes
    assert estimate_memory(shape, options, 1 << 40, True).needed_bytes == estimate.needed_bytes - estimate.weights_bytes
    assert not estimate_memory(shape, options, estimate.needed_bytes - 1, False).fits
