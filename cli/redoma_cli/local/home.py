"""Where a site keeps its state, and which checkout it runs from."""

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import redoma_cli
from redoma_cli.errors import CliError

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600


@dataclass(frozen=True, slots=True)
class PrivateHome:
    """The layout of the private site's part of $REDOMA_HOME."""

    root: Path

    @property
    def config(self) -> Path:
        """Settings of each of its processes."""
        return self.root / "config"

    @property
    def data(self) -> Path:
        """Databases."""
        return self.root / "data"

    @property
    def membership(self) -> Path:
        """Keys, certificates, the trust bundle and the state of joining: what makes it part of a network."""
        return self.root / "membership"

    @property
    def run(self) -> Path:
        """Sockets: worth nothing once nothing runs."""
        return self.root / "run"

    def create(self) -> None:
        """Makes the directories, closed to other users.

        Raises:
            OSError: A directory can't be made.
        """
        for directory in (self.root, self.config, self.data, self.membership, self.run):
            directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Home:
    """The layout of $REDOMA_HOME. Everything in it is the owner's alone.

    What is not in `private` is the public site's or both sites'.
    """

    root: Path

    @property
    def config(self) -> Path:
        """Settings of each process; written anew by each `redoma up`."""
        return self.root / "config"

    @property
    def pki(self) -> Path:
        """The development authority and each service's identity."""
        return self.root / "pki"

    @property
    def data(self) -> Path:
        """Databases."""
        return self.root / "data"

    @property
    def models(self) -> Path:
        """Models that can be served; `redoma engine load` names them."""
        return self.root / "models"

    @property
    def adapters(self) -> Path:
        """LoRA adapters and their manifests."""
        return self.root / "adapters"

    @property
    def log(self) -> Path:
        """One log a process."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """Process ids, locks, sockets: worth nothing once nothing runs."""
        return self.root / "run"

    @property
    def private(self) -> PrivateHome:
        """The private site's part."""
        return PrivateHome(self.root / "private")

    @property
    def demo_file(self) -> Path:
        """Where other programs find the edge and the demo tenants' keys."""
        return self.root / "demo.json"

    @property
    def history_file(self) -> Path:
        """What was typed in `redoma chat`."""
        return self.root / "chat_history"

    def create(self) -> None:
        """Makes the directories, closed to other users.

        Raises:
            OSError: A directory can't be made.
        """
        for directory in (self.root, self.config, self.pki, self.data, self.log, self.run):
            directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)


def find_checkout() -> Path | None:
    """Gives the root of the source checkout this package runs from, or None when it was installed from a wheel."""
    root = Path(redoma_cli.__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "requirements").is_dir() else None


def find_home(environ: Mapping[str, str], checkout: Path | None) -> Home:
    """Gives $REDOMA_HOME, else `.redoma` in the checkout, else `~/.redoma`.

    Raises:
        CliError: $REDOMA_HOME begins with the home of a user there is not, or no configuration could name it.
    """
    named = environ.get("REDOMA_HOME", "")
    try:
        default = checkout / ".redoma" if checkout else Path.home() / ".redoma"
        root = Path(named).expanduser().resolve() if named else default
    except RuntimeError as error:
        raise CliError(f"REDOMA_HOME={named} names no directory.", "Set it to a whole path.") from error
    if not _is_plain(str(root)):
        raise CliError(
            f"{str(root)!a} can't be the home of a site, since no configuration can name it.",
            "Set REDOMA_HOME to a directory whose path is UTF-8 without control characters.",
        )
    return Home(root)


def _is_plain(path: str) -> bool:
    """Whether a path is UTF-8 without control characters. Other bytes come from the system as lone surrogates."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in path)


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file in one step; nobody but the owner can read it, at any moment.

    Raises:
        OSError: The file can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
