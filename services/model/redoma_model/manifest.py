"""The manifest of a LoRA adapter, the authority on whose it is and for which base model."""

import errno
import hashlib
import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from redoma_model.engine.adapters import LoadedAdapter
from redoma_model.errors import AdapterIncompatible, AdapterNotFound
from redoma_model.folders import PathOutside, path_within

MAX_MANIFEST_BYTES = 64 << 10
MAX_NAME_CHARACTERS = 128
MAX_SCALE = 10.0
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TENANT = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_REQUIRED = frozenset({"name", "file", "digest", "tenant", "base_digest"})
_KNOWN = _REQUIRED | {"scale"}


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """What an adapter's manifest says, checked for form.

    Attributes:
        file: The adapter's file, within the adapter folder, links followed.
        scale: What its weights are multiplied with, above 0, up to MAX_SCALE.
    """

    name: str
    file: Path
    digest: str
    tenant: str
    base_digest: str
    scale: float

    def adapter(self, scale: float | None = None) -> LoadedAdapter:
        """Gives the adapter, not loaded yet; `scale` replaces the manifest's."""
        return LoadedAdapter(
            self.digest, self.tenant, self.base_digest, self.name, self.scale if scale is None else scale
        )

    def check_base(self, digest: str) -> None:
        """Checks that the adapter is for the model of that digest.

        Raises:
            AdapterIncompatible: It is for another.
        """
        if digest != self.base_digest:
            raise AdapterIncompatible(
                "base", f"The adapter {self.name} is for the base model {self.base_digest}, and this one is {digest}."
            )

    def check_file(self) -> None:
        """Checks that the file is the one that the manifest speaks of. Reads all of it, so keep it off the event loop.

        Raises:
            AdapterIncompatible: It can't be read, or its digest is another.
        """
        try:
            digest = file_digest(self.file)
        except OSError as error:
            raise AdapterIncompatible(
                "file", f"The file of adapter {self.name} can't be read: {error.strerror}."
            ) from error
        if digest != self.digest:
            raise AdapterIncompatible(
                "digest",
                f"The file of adapter {self.name} is not the one its manifest names: its digest is {digest}.",
            )


def read_manifest(folder: Path, relative: str) -> AdapterManifest:
    """Reads the manifest at a path within the adapter folder. Its `file` is a path beside it, within the folder too.

    Raises:
        AdapterNotFound: There is none.
        AdapterIncompatible: It is no manifest, or its paths lead out of the folder.
    """
    try:
        path = path_within(folder, relative)
    except PathOutside as error:
        raise _broken(relative, f"its path {error}") from error
    try:
        _check_plain(path)
        with path.open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AdapterNotFound(relative) from error
    except OSError as error:
        raise _broken(relative, f"it can't be read: {error.strerror}.") from error
    if len(content) > MAX_MANIFEST_BYTES:
        raise _broken(relative, f"it has more than {MAX_MANIFEST_BYTES} bytes.")
    return _parse(folder, relative, path, content)


def file_digest(path: Path) -> str:
    """Gives the digest of a file, read in pieces.

    Raises:
        OSError: It can't be read.
    """
    _check_plain(path)
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _check_plain(path: Path) -> None:
    """Raises OSError unless it is a plain file: opening another kind may wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))


def _parse(folder: Path, relative: str, path: Path, content: bytes) -> AdapterManifest:
    try:
        values = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _broken(relative, "it is not JSON.") from error
    if not isinstance(values, dict):
        raise _broken(relative, "it is not a JSON object.")
    for name in sorted(values.keys() - _KNOWN):
        raise _broken(relative, f"it has a field {name!r:.100}, which no manifest has.")
    for name in sorted(_REQUIRED - values.keys()):
        raise _broken(relative, f"its field {name!r} is missing.")
    name = _text(relative, values, "name")
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise _broken(relative, f"its name is not 1 to {MAX_NAME_CHARACTERS} printable characters.")
    return AdapterManifest(
        name=name,
        file=_file(folder, relative, path, _text(relative, values, "file")),
        digest=_matching(relative, values, "digest", DIGEST),
        tenant=_matching(relative, values, "tenant", TENANT),
        base_digest=_matching(relative, values, "base_digest", DIGEST),
        scale=_scale(relative, values.get("scale", 1.0)),
    )


def _file(folder: Path, relative: str, manifest: Path, name: str) -> Path:
    try:
        beside = path_within(manifest.parent, name)
        return path_within(folder, beside.relative_to(folder.resolve()).as_posix())
    except PathOutside as error:
        raise _broken(relative, f"its file {error}") from error


def _text(relative: str, values: Mapping[str, object], name: str) -> str:
    value = values[name]
    if not isinstance(value, str) or not value:
        raise _broken(relative, f"its field {name!r} is not a text.")
    return value


def _matching(relative: str, values: Mapping[str, object], name: str, form: "re.Pattern[str]") -> str:
    value = _text(relative, values, name)
    if not form.fullmatch(value):
        raise _broken(relative, f"its field {name!r} does not have the form {form.pattern}.")
    return value


def _scale(relative: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_scale(value):
        raise _broken(relative, f"its scale is not above 0 and at most {MAX_SCALE:g}.")
    return float(value)


def is_scale(value: float) -> bool:
    """Tells whether an adapter's weights may be multiplied with it."""
    return math.isfinite(value) and 0 < value <= MAX_SCALE


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _broken(relative: str, problem: str) -> AdapterIncompatible:
    return AdapterIncompatible("manifest", f"The manifest {relative!r:.200} can't be used: {problem}")
