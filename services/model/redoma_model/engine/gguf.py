"""A look at a model file before llama.cpp opens it, so that a wrong file is one clear sentence."""

import struct
from pathlib import Path

from redoma_model.errors import ModelFileError

MAGIC = b"GGUF"
HEADER = struct.Struct("<4sIQQ")
OLDEST_VERSION = 2


def check_gguf(path: Path) -> None:
    """Checks that `path` is a file that begins as GGUF does.

    Raises:
        ModelFileError: It is not.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size)
    except OSError as error:
        raise ModelFileError(f"The model file {path} can't be read: {error.strerror}.") from error
    if head[:4] != MAGIC:
        raise ModelFileError(f"{path} is not a GGUF model: it does not begin with the letters GGUF.")
    if len(head) < HEADER.size:
        raise ModelFileError(f"{path} is cut short: a GGUF model has more than {len(head)} bytes.")
    version = HEADER.unpack(head)[1]
    if version < OLDEST_VERSION or version > 0xFFFF:
        raise ModelFileError(f"{path} is GGUF of version {version} or of another byte order, which can't be loaded.")
