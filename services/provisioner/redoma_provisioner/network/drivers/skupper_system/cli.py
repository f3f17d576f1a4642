"""Skupper's CLI, one method for each command that Redoma runs, always told its platform and namespace.

Status comes as JSON documents one after another; an empty list is a sentence, or nothing, with exit code 0.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper.resource import VERSION
from redoma_provisioner.network.drivers.skupper_system.failure import GET_IT, failure_of, is_refusal
from redoma_provisioner.network.drivers.skupper_system.process import Outcome, RunProgram, TooMuchOutput, run_program

OLDEST = (2, 2, 1)
NEWEST_MAJOR = 2
_PASSED_ON = re.compile(
    r"(PATH|HOME|USER|LOGNAME|LANG|LC_.*|TMPDIR|XDG_.*|DBUS_.*|CONTAINER_.*|DOCKER_.*|SKUPPER_.*|"
    r"(HTTPS?|NO)_PROXY|(https?|no)_proxy)"
)


@dataclass(frozen=True, slots=True)
class CliLimits:
    """How long commands may take, in seconds. Starting a site for the first time may fetch the router's image."""

    status_s: float = 20.0
    restart_s: float = 600.0


class SkupperCli:
    """Skupper's CLI for one namespace on one platform."""

    def __init__(
        self,
        executable: str,
        namespace: str,
        platform: str,
        environ: Mapping[str, str],
        *,
        data_base: str | None = None,
        limits: CliLimits | None = None,
        run: RunProgram = run_program,
    ) -> None:
        """Only the part of `environ` that Skupper reads is passed on; `data_base` replaces its XDG_DATA_HOME."""
        self._run_program = run
        self._executable = executable
        self._place = ("-n", namespace, "-p", platform)
        kept = {name: value for name, value in environ.items() if _PASSED_ON.fullmatch(name)}
        self._environment = {**kept, "LC_ALL": "C", "SKUPPER_PLATFORM": platform}
        if data_base is not None:
            self._environment["XDG_DATA_HOME"] = data_base
        self._limits = limits or CliLimits()
        self._version_known = False

    async def check_version(self) -> None:
        """Makes sure that the CLI is there and of a version that this driver knows.

        Raises:
            DriverRefused: It is missing, too old or too new; the message says which version is needed and whose it is.
        """
        if self._version_known:
            return
        outcome = await self._run(("version",), self._limits.status_s, placed=False)
        found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", outcome.stdout.strip())
        version = tuple(int(part) for part in found.groups()) if found else (0, 0, 0)
        if version < OLDEST or version[0] > NEWEST_MAJOR:
            raise DriverRefused(
                f"Skupper's CLI says that it is version {outcome.stdout.strip()[:40] or 'unknown'}, "
                f"and this needs {VERSION} or later of version {NEWEST_MAJOR}: {GET_IT}."
            )
        self._version_known = True

    async def start(self) -> None:
        """Starts the site for the first time."""
        await self._run_well(("system", "start"), self._limits.restart_s)

    async def reload(self) -> None:
        """Takes up what is in the namespace's input; the router restarts, so all that it carries breaks off."""
        await self._run_well(("system", "reload"), self._limits.restart_s)

    async def status(self, kind: str) -> list[dict[str, object]]:
        """Gives what Skupper says of each "site", "listener", "connector" or "link"; empty before a start."""
        outcome = await self._run((kind, "status", "-o", "json"), self._limits.status_s)
        if is_refusal(outcome) and "failed to read directory" not in outcome.stdout:
            raise failure_of(f"{kind} status", outcome)
        return parse_documents(outcome.stdout)

    async def link_file(self, link: str, host: str) -> str:
        """Gives what other sites link by, of one of the site's link accesses; it holds a private key."""
        outcome = await self._run(("link", "generate", "--name", link, "--host", host), self._limits.status_s)
        if is_refusal(outcome):
            raise failure_of("link generate", outcome)
        return outcome.stdout

    async def _run_well(self, command: tuple[str, ...], timeout_s: float) -> None:
        outcome = await self._run(command, timeout_s)
        if is_refusal(outcome):
            raise failure_of(" ".join(command), outcome)

    async def _run(self, command: tuple[str, ...], timeout_s: float, *, placed: bool = True) -> Outcome:
        shown = " ".join(command[:2])
        arguments = (self._executable, *command, *(self._place if placed else ()))
        try:
            return await self._run_program(arguments, self._environment, timeout_s=timeout_s)
        except (FileNotFoundError, PermissionError):
            raise DriverRefused(
                f"Skupper's CLI is not found as {self._executable!r}, and this needs {VERSION}: {GET_IT}."
            ) from None
        except TimeoutError:
            raise DriverUnavailable(
                f"skupper {shown} did not end within {timeout_s:g} s and was stopped. "
                "Look whether the container engine or systemd hangs."
            ) from None
        except OSError as error:
            raise DriverUnavailable(f"Skupper's CLI can't be run: {error.strerror}.") from None
        except TooMuchOutput:
            raise DriverUnavailable(f"skupper {shown} printed too much to be read, and was stopped.") from None


def parse_documents(text: str) -> list[dict[str, object]]:
    """Reads JSON objects that follow one another; what is no object, such as a sentence, is passed over."""
    decoder, found, position = json.JSONDecoder(), list[dict[str, object]](), text.find("{")
    while position != -1:
        try:
            document, end = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError):
            return found
        if isinstance(document, dict):
            found.append(document)
        position = text.find("{", end)
    return found
