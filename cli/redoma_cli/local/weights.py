"""Which model file a site serves: the one that came with the installation, or the person's own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from redoma_cli.errors import CliError
from redoma_cli.local.home import Home

GGUF_MAGIC = b"GGUF"
HUB_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Weights:
    """A model to serve.

    Attributes:
        name: What callers name it; empty leaves that to the model service, which makes it of the file's name.
        path: Its GGUF file.
    """

    name: str
    path: Path


# Name to file name, in the tools' or the home's `models` directory.
CATALOGUE: Mapping[str, str] = {"smollm2-135m-instruct": "SmolLM2-135M-Instruct.Q4_1.gguf"}
DEFAULT_MODEL = "smollm2-135m-instruct"


def choose_weights(wanted: str, home: Home, checkout: Path | None) -> Weights:
    """Finds the model that `wanted` names: a name in the catalogue or the path of a GGUF file; empty is the default.

    Raises:
        CliError: There is no such model here, or the file is not a model.
    """
    wanted = wanted.strip() or DEFAULT_MODEL
    if wanted.lower() in CATALOGUE:
        return _from_catalogue(wanted.lower(), home, checkout)
    path = Path(wanted).expanduser()
    if path.is_file():
        _check_gguf(path)
        return Weights("", path.resolve())
    if HUB_REPOSITORY.fullmatch(wanted) and not path.suffix == ".gguf":
        raise CliError(
            f"REDOMA_MODEL={wanted} names a Hugging Face repository, and pulling one is not available in this version.",
            "Download a GGUF file of it and set REDOMA_MODEL to its path.",
        )
    known = ", ".join(sorted(CATALOGUE))
    raise CliError(
        f"REDOMA_MODEL={wanted} is neither a model of the catalogue ({known}) nor a file.",
        "Set it to one of these or to the path of a GGUF file.",
    )


def _from_catalogue(name: str, home: Home, checkout: Path | None) -> Weights:
    directories = [home.models]
    if checkout is not None:
        directories.insert(0, checkout / ".tools" / "models")
    for directory in directories:
        path = directory / CATALOGUE[name]
        if path.is_file():
            _check_gguf(path)
            return Weights(name, path)
    mend = "Fetch it with: make up" if checkout else f"Put {CATALOGUE[name]} into {directories[-1]}"
    raise CliError(f"The file of model {name} is missing.", f"{mend}, or set REDOMA_MODEL to the path of a GGUF file.")


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise CliError(f"The model file {path} can't be read: {error.strerror}.", "Check its permissions.") from error
    if magic != GGUF_MAGIC:
        raise CliError(
            f"{path} is not a GGUF file.", "Set REDOMA_MODEL to the path of one, or convert the model first."
        )
