"""A look at a GGUF file before llama.cpp opens it, so that a wrong or broken file is one clear sentence."""

import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redoma_model.errors import ModelFileError

MAGIC = b"GGUF"
HEADER = struct.Struct("<4sIQQ")
OLDEST_VERSION = 2
MOST_ENTRIES = 1 << 20
_DEFAULT_ALIGNMENT = 32
FLOAT32 = 6
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
# Elements of a block and its bytes, by ggml's number of the type.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor as the header describes it.

    Attributes:
        type: ggml's number of its type.
        size: Of its data, in bytes; None when its type is not known here.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    size: int | None


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        metadata: Values that are no lists.
        types: GGUF's number of each value's type.
        lengths: How long the lists are.
    """

    metadata: dict[str, Value]
    types: dict[str, int]
    lengths: dict[str, int]
    tensors: tuple[GgufTensor, ...]

    def text(self, key: str) -> str:
        """Gives a value that is a text; empty when there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str, default: float) -> float:
        """Gives a value that is a number."""
        value = self.metadata.get(key)
        return default if value is None or isinstance(value, str) else float(value)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors of a known type."""
        return sum(tensor.size or 0 for tensor in self.tensors)


# Sampling that a model's makers recommend, by the names that Sampling has for it.
_RECOMMENDED = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
}


def recommended_sampling(header: GgufHeader) -> dict[str, float]:
    """Gives the sampling that the metadata recommends, by field of Sampling."""
    keys = {f"general.sampling.{name}": field for name, field in _RECOMMENDED.items()}
    return {field: header.number(key, 0.0) for key, field in keys.items() if _is_number(header.metadata.get(key))}


def _is_number(value: Value | None) -> bool:
    return isinstance(value, int | float)


def read_model(path: Path) -> tuple[GgufHeader, ...]:
    """Reads the headers of all parts of a model; `path` is the first or only one.

    Raises:
        ModelFileError: A part is missing, cut short, or no GGUF.
    """
    first = read_gguf(path)
    parts = int(first.number("split.count", 1))
    if parts < 2:
        return (first,)
    found = _SPLIT.search(path.name)
    if found is None or int(found[1]) != 1 or int(found[2]) != parts:
        raise ModelFileError(
            f"{path} is not the first of the model's {parts} parts, whose name ends in -00001-of-{parts:05}.gguf."
        )
    stem = path.name[: found.start()]
    return first, *(read_gguf(path.with_name(f"{stem}-{part:05}-of-{parts:05}.gguf")) for part in range(2, parts + 1))


def read_gguf(path: Path) -> GgufHeader:
    """Reads the header of a GGUF file and checks that the file holds what it describes.

    Raises:
        ModelFileError: It does not, or it is no GGUF file.
    """
    with _opened(path) as data:
        if data[:4] != MAGIC:
            raise ModelFileError(f"{path} is not a GGUF model or adapter: it does not begin with the letters GGUF.")
        try:
            return _Reader(path, data).header()
        except (struct.error, IndexError, OverflowError) as error:
            raise ModelFileError(f"{path} is cut short: its {len(data)} bytes end within its header.") from error


@contextmanager
def _opened(path: Path) -> Iterator[bytes | mmap.mmap]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ModelFileError(f"The model file {path} can't be read: {error.strerror}.") from error
    with file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            # Empty, or nothing that can be mapped.
            yield b""
            return
        with mapped:
            yield mapped


class _Reader:
    """Reads on from a place in the file. Past the end, struct.error, IndexError or OverflowError is raised."""

    def __init__(self, path: Path, data: bytes | mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = HEADER.size

    def header(self) -> GgufHeader:
        _, version, tensors, entries = HEADER.unpack(self._data[: HEADER.size])
        if version < OLDEST_VERSION or version > 0xFFFF:
            raise ModelFileError(
                f"{self._path} is GGUF of version {version} or of another byte order, which can't be loaded."
            )
        if max(tensors, entries) > MOST_ENTRIES:
            raise self._broken(f"it claims {tensors} tensors and {entries} metadata entries")
        metadata: dict[str, Value] = {}
        types: dict[str, int] = {}
        lengths: dict[str, int] = {}
        for _ in range(entries):
            key, kind = self._string(), self._number("<I")
            if kind == _ARRAY:
                lengths[key] = self._skip_array()
            else:
                metadata[key], types[key] = self._value(kind), kind
        found = [self._tensor() for _ in range(tensors)]
        header = GgufHeader(metadata, types, lengths, tuple(tensor for tensor, _ in found))
        self._check_data(found, int(header.number("general.alignment", _DEFAULT_ALIGNMENT)))
        return header

    def _check_data(self, tensors: list[tuple[GgufTensor, int]], alignment: int) -> None:
        if alignment < 1:
            raise self._broken("its alignment is 0")
        begin = (self._at + alignment - 1) // alignment * alignment
        ends = [begin + offset + (tensor.size or 0) for tensor, offset in tensors]
        if ends and max(ends) > len(self._data):
            raise ModelFileError(
                f"{self._path} is cut short: its {len(tensors)} tensors end at byte {max(ends)} and it has "
                f"{len(self._data)} bytes."
            )

    def _tensor(self) -> tuple[GgufTensor, int]:
        name, dimensions = self._string(), self._number("<I")
        if dimensions > 8:
            raise self._broken(f"the tensor {name:.100} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        kind, offset = self._number("<I"), self._number("<Q")
        elements = 1
        for one in shape:
            elements *= one
        block = _BLOCKS.get(kind)
        size = None if block is None else elements // block[0] * block[1]
        return GgufTensor(name, shape, kind, size), offset

    def _value(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string()
        if kind not in _SCALARS:
            raise self._broken(f"a metadata entry has type {kind}")
        return self._number(_SCALARS[kind])

    def _skip_array(self) -> int:
        kind, length = self._number("<I"), self._number("<Q")
        if length > len(self._data):
            raise self._broken(f"it claims a list of {length} entries")
        if kind == _STRING:
            unpack = struct.Struct("<Q").unpack_from
            for _ in range(length):
                self._at += 8 + unpack(self._data, self._at)[0]
        elif kind in _SCALARS:
            self._at += length * struct.calcsize(_SCALARS[kind])
        else:
            raise self._broken(f"a list has entries of type {kind}")
        return int(length)

    def _string(self) -> str:
        length = self._number("<Q")
        text = self._data[self._at : self._at + length]
        if len(text) < length:
            raise IndexError
        self._at += length
        return text.decode(errors="replace")

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return value  # type: ignore[no-any-return]

    def _broken(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self._path} is a broken GGUF file: {problem}.")
