"""The files of one namespace: what is wanted, of whom, and what Skupper has taken up of it.

Files are written whole or not at all, with mode 0600; those of others are read and never written.
"""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper.name import checked_label
from redoma_provisioner.network.drivers.skupper.resource import Resource, is_ours
from redoma_provisioner.network.drivers.skupper_system.place import Place

LARGEST_FILE = 1024 * 1024
_KEPT = ".kept"
_CREDENTIALS = ("Link", "Secret")

ResourceKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """All that is read of a namespace.

    Attributes:
        ours: What Redoma wants there, by kind and name.
        foreign: What others want there.
        taken_up: What Skupper runs on, by kind and name; of all hands.
        kept: Credentials of links that were redeemed and whose apply then failed.
        started: Whether the site was ever started.
    """

    ours: Mapping[ResourceKey, Mapping[str, object]] = field(default_factory=dict, repr=False)
    foreign: Sequence[Mapping[str, object]] = field(default=(), repr=False)
    taken_up: Mapping[ResourceKey, Mapping[str, object]] = field(default_factory=dict, repr=False)
    kept: Mapping[ResourceKey, Mapping[str, object]] = field(default_factory=dict, repr=False)
    started: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What files held before they were written or removed; None where there was none."""

    former: Mapping[Path, bytes | None] = field(default_factory=dict, repr=False)


class ResourceFiles:
    """The files of one namespace. Every method blocks, and raises DriverUnavailable where the disk fails."""

    def __init__(self, place: Place) -> None:
        """`place`: which namespace."""
        self._place = place
        self._parsed = dict[Path, tuple[tuple[int, int, int], list[Mapping[str, object]]]]()

    def read(self) -> Known:
        """Reads what is wanted and what is taken up."""
        ours, foreign, kept = dict[ResourceKey, Mapping[str, object]](), list[Mapping[str, object]](), {}
        for path, documents in self._documents(self._place.input, ".yaml", ".yml", _KEPT):
            for one in documents:
                key = key_of(one)
                if path.name.endswith(_KEPT):
                    kept[key] = one
                elif is_ours(one) and path == self._path(*key):
                    ours[key] = one
                else:
                    foreign.append(one)
        taken_up = {key_of(one): one for _, found in self._documents(self._place.snapshot, ".yaml") for one in found}
        return Known(ours, foreign, taken_up, kept, self._place.runtime.is_dir())

    def write(self, wanted: Sequence[Resource], known: Known) -> Change:
        """Makes ours what is wanted, and nothing else. A file that is right already is left as it is.

        Raises:
            DriverRefused: A file of another's hand has the name of one of ours.
        """
        former = dict[Path, bytes | None]()
        manifests = {(one.kind, one.name): one.manifest(self._place.namespace) for one in wanted}
        taken = {key_of(one) for one in known.foreign}
        for key in manifests:
            if key in taken or (key not in known.ours and self._path(*key).exists()):
                raise DriverRefused(
                    f"{self._path(*key)} is there and is not Redoma's. Take it out, or give it another name."
                )
        try:
            for key, manifest in manifests.items():
                if known.ours.get(key) != manifest:
                    former[self._path(*key)] = _read_bytes(self._path(*key))
                    _write(self._path(*key), _dump(manifest))
            for key in known.ours.keys() - manifests.keys():
                former[self._path(*key)] = _read_bytes(self._path(*key))
                self._path(*key).unlink(missing_ok=True)
        except OSError as error:
            self.undo(Change(former))
            raise _disk(self._place.input, error) from None
        return Change(former)

    def undo(self, change: Change) -> None:
        """Puts files back as they were. A link's credentials that are new are kept aside: they can't be had twice."""
        try:
            for path, content in change.former.items():
                if content is not None:
                    _write(path, content)
                elif path.name.startswith(tuple(f"{kind}-" for kind in _CREDENTIALS)) and path.exists():
                    path.replace(path.with_name(f".{path.name}{_KEPT}"))
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _disk(self._place.input, error) from None

    def drop_kept(self, known: Known) -> None:
        """Removes credentials that were kept aside and are in use now, or wanted no more."""
        for kind, name in known.kept:
            path = self._path(kind, name)
            path.with_name(f".{path.name}{_KEPT}").unlink(missing_ok=True)

    def tighten(self) -> None:
        """Takes private keys that Skupper wrote for all to read from all but their owner."""
        for directory in (self._place.input, self._place.snapshot, self._place.runtime, self._place.links):
            holds_keys = "*.yaml" if directory == self._place.links else "Secret-*.yaml"
            for path in directory.glob(holds_keys):
                with suppress(OSError):
                    if path.lstat().st_mode & 0o077 and not path.is_symlink():
                        path.chmod(0o600)

    def _documents(self, directory: Path, *endings: str) -> Iterator[tuple[Path, list[Mapping[str, object]]]]:
        """Reads the resources in each file of a directory; what can't be read or is none is another's affair."""
        try:
            paths = sorted(path for path in directory.iterdir() if path.name.endswith(endings))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _disk(directory, error) from None
        for path in paths:
            with suppress(OSError):
                status = path.stat()
                stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
                if path not in self._parsed or self._parsed[path][0] != stamp:
                    self._parsed[path] = (stamp, _parse(path) if status.st_size <= LARGEST_FILE else [])
                yield path, self._parsed[path][1]
        for path in [path for path in self._parsed if path.parent == directory and path not in paths]:
            self._parsed.pop(path, None)

    def _path(self, kind: str, name: str) -> Path:
        return self._place.input / f"{kind}-{checked_label(name, 'The name')}.yaml" if name else self._place.input / "-"


def key_of(manifest: Mapping[str, object]) -> ResourceKey:
    """Gives the kind and the name of a resource; empty where it has none, or one that names no file."""
    metadata = manifest.get("metadata")
    name = str(metadata.get("name", "")) if isinstance(metadata, Mapping) else ""
    try:
        return str(manifest.get("kind", "")), checked_label(name, "The name")
    except DriverRefused:
        return str(manifest.get("kind", "")), ""


def name_of(manifest: Mapping[str, object]) -> str:
    """Gives the name of a resource; empty where it has none that could be a file's."""
    return key_of(manifest)[1]


def same(wanted: Mapping[str, object], found: Mapping[str, object] | None) -> bool:
    """Tells whether two resources want the same, whatever Skupper noted on one and however it wrote the numbers."""
    return found is not None and all(_plain(wanted.get(key)) == _plain(found.get(key)) for key in ("spec", "data"))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items() if _plain(one) not in ("", {}, [], "0", "False")}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {} if value is None else str(value)


def _parse(path: Path) -> list[Mapping[str, object]]:
    """Reads the documents of a file, in Python: libyaml's loader takes the process down on brackets nested too deep."""
    try:
        return [one for one in yaml.safe_load_all(path.read_bytes()) if isinstance(one, dict)]
    except (yaml.YAMLError, RecursionError, ValueError):
        return []


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _dump(manifest: Mapping[str, object]) -> bytes:
    return yaml.dump(dict(manifest), Dumper=_DUMPER, sort_keys=True).encode()


def _write(path: Path, content: bytes) -> None:
    """Puts a file in place at once, so that neither Skupper nor a crash ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def _disk(directory: Path, error: OSError) -> DriverUnavailable:
    return DriverUnavailable(
        f"{directory} can't be read or written ({error.strerror}). Check who owns it and that the disk is not full."
    )


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
