"""What Skupper's CLI prints when it fails, in words that say what to do.

It prints errors on standard output, and some of its refusals end with exit code 0.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper.resource import VERSION
from redoma_provisioner.network.drivers.skupper_system.process import Outcome

GET_IT = f"install Skupper {VERSION} from the releases of github.com/skupperproject/skupper"
MOST_WORDS = 400
_CHATTER = re.compile(r"^Sources will be consumed|^It is recommended to enable lingering|WARN certificate will not")

_Failure = DriverRefused | DriverUnavailable


@dataclass(frozen=True, slots=True)
class _Known:
    """One failure: what it looks like, what to do, and whether trying again helps by itself."""

    looks: re.Pattern[str]
    mend: str
    passing: bool = False


_KNOWN = (
    _Known(
        re.compile(r"does not support kubernetes platforms|no configuration has been provided"),
        "Skupper took the platform for Kubernetes and did nothing; set driver.platform to podman, docker or linux",
    ),
    _Known(re.compile(r"platform \"[^\"]*\" not supported"), "Set driver.platform to podman, docker or linux"),
    _Known(
        re.compile(r"Command not found: skrouterd"),
        f"Install Skupper's router (skrouterd, of skupper-router), or set driver.platform to podman; {GET_IT}",
    ),
    _Known(re.compile(r"Command not found: (podman|docker)"), "Install the container engine, or set driver.platform"),
    _Known(
        re.compile(r"SystemD is not enabled|NewSystemdServiceInfo|unable to create startup service"),
        "Skupper needs the user's systemd: loginctl enable-linger, and log in so that systemctl --user works",
        passing=True,
    ),
    _Known(
        re.compile(
            r"Container engine is not available|local addresses cannot be used|failed to create container client"
        ),
        "Start the container engine's socket: systemctl --user enable --now podman.socket, or set CONTAINER_ENDPOINT",
        passing=True,
    ),
    _Known(re.compile(r"failed to pull"), "Check that this machine may fetch Skupper's images", passing=True),
    _Known(
        re.compile(r"and it cannot change to"),
        "The namespace was started on another platform: set driver.platform to that one, or use another namespace",
    ),
    _Known(
        re.compile(r"multiple sites found"),
        "Take one of the Site files out of the namespace's input/resources; a namespace has one site",
    ),
    _Known(
        re.compile(r"failed to redeem"),
        "An AccessToken of another hand lies in the namespace's input/resources and is used up: take it out",
    ),
    _Known(
        re.compile(r"multiple namespaces found|namespace must be"),
        "A file in the namespace's input/resources names another namespace: take it out",
    ),
    _Known(
        re.compile(r"No sources found at|there is no active site"),
        "Skupper's CLI looks elsewhere than Redoma writes: as root it uses /var/lib/skupper, else XDG_DATA_HOME; "
        "set driver.data_home to that, or run both as the same user",
    ),
    _Known(
        re.compile(r"unable to load router configuration"),
        "A start or reload was cut short. Take away the namespace's runtime and internal directories, and apply again",
    ),
    _Known(
        re.compile(r"stat /(output|input): no such file"),
        "Skupper's CLI can't start a site from inside a container: run the provisioner on the machine itself",
    ),
    _Known(re.compile(r"unknown (command|flag|shorthand flag)"), f"This Skupper is another version: {GET_IT}"),
)


def failure_of(command: str, outcome: Outcome) -> _Failure:
    """Gives the error for a command that failed: Skupper's own words, and what to do."""
    printed = f"{outcome.stdout}\n{outcome.stderr}"
    known = next((one for one in _KNOWN if one.looks.search(printed)), None)
    words = _words(outcome)
    if known is None:
        return DriverRefused(f"skupper {command} failed: {words}. Mend what it names and apply again.")
    make: Callable[[str], _Failure] = DriverUnavailable if known.passing else DriverRefused
    return make(f"skupper {command} failed: {words}. {known.mend}.")


def is_refusal(outcome: Outcome) -> bool:
    """Tells whether a command failed, whatever its exit code says."""
    return outcome.exit_code != 0 or "does not support kubernetes platforms" in outcome.stdout


def _words(outcome: Outcome) -> str:
    """Gives the line that says most, short and without control characters or a trailing dot."""
    lines = [*outcome.stdout.splitlines(), *outcome.stderr.splitlines()]
    lines = [line.strip() for line in lines if line.strip()]
    lines = [line for line in lines if not _CHATTER.search(line)]
    telling = [line for line in lines if re.search(r"[Ff]ail|ERROR|panic|not |invalid|unknown|multiple|exist", line)]
    chosen = (telling or lines or [f"exit code {outcome.exit_code}, without a word"])[0]
    if chosen.endswith(":") and lines.index(chosen) + 1 < len(lines):
        chosen = f"{chosen} {lines[lines.index(chosen) + 1]}"
    return "".join(letter for letter in chosen if letter.isprintable())[:MOST_WORDS].rstrip(". ")
