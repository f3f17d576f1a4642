"""The one-shot commands of a provisioner, which `redoma` runs: print a bootstrap, make a grant, join, probe a link."""

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from redoma_cli.errors import CliError
from redoma_cli.local.home import PRIVATE_DIRECTORY, write_private
from redoma_cli.local.membership import Failure, Step
from redoma_cli.local.plan import fingerprint
from redoma_cli.local.service import Program, program_files
from redoma_kit.envoy_process import secrets_file

TIMEOUT_S = 120.0
PROG = "redoma-provisioner: "


@dataclass(frozen=True, slots=True)
class ProvisionerProgram:
    """A provisioner of this machine, run for one task at a time.

    Attributes:
        program: Its program and its settings file.
        env: Its whole environment.
    """

    program: Program
    env: Mapping[str, str]

    def bootstrap(self, proxy: str, about: str = "") -> Path:
        """Gives the file with the bootstrap of an Envoy of its site, printed anew only if what it is made of changed.

        `about` is what it is made of besides the settings file.

        Raises:
            CliError: It can't be printed.
            OSError: It can't be written.
        """
        argv = (*self.program.argv, "--print-bootstrap", proxy)
        made_of = fingerprint((*argv, about), self.env, [self.program.config, *program_files(self.program.packages)])
        file = self.program.config.with_name(f"{proxy}.json")
        # Envoy reads this one again when it changes, by its name in the working directory.
        secrets = self.program.directory / secrets_file(proxy)
        mark = file.with_suffix(".made-of")
        if not (file.exists() and secrets.exists() and mark.exists() and mark.read_text() == made_of):
            printed = json.loads(self._run(argv))
            write_private(secrets, _rendered(printed["secrets"]))
            write_private(file, _rendered(printed["bootstrap"]))
            write_private(mark, made_of.encode())
        return file

    def make_link_grant(self, site: str, rejoin: bool) -> str:
        """Makes a grant for a site of the same person and gives its token; with `rejoin` for one that has joined.

        Raises:
            CliError: It is refused.
        """
        task = "--make-rejoin-grant" if rejoin else "--make-link-grant"
        return self._run((*self.program.argv, task, site)).strip()

    def link_problem(self) -> Failure:
        """Says why the gateway of this private site gets no tunnel, by dialling as it would.

        Raises:
            CliError: The site has not joined, or it can't be tried.
        """
        printed = json.loads(self._run((*self.program.argv, "--probe-link")))
        return Failure(str(printed["reason"]), str(printed["message"]), "")

    def join(self, token: str, heard: Callable[[Step], None], link_file: Path | None = None) -> None:
        """Joins with a token, telling each step; the token is on no command line.

        `link_file` is what `skupper link generate` wrote, where a Skupper driver has no grant server.

        Raises:
            CliError: It did not join; says why and what to do.
        """
        self.program.directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        with subprocess.Popen(  # noqa: S603
            (*self.program.argv, "--join"),
            env={**self.env, **({"REDOMA_PROVISIONER_LINK_FILE": str(link_file.resolve())} if link_file else {})},
            cwd=self.program.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            if process.stdin is None or process.stdout is None or process.stderr is None:
                raise CliError("The provisioner can't be started.")
            process.stdin.write(f"{token}\n")
            process.stdin.close()
            error: Failure | None = None
            for line in process.stdout:
                step, told = parse_line(line)
                error = told or error
                if step is not None:
                    heard(step)
            said = process.stderr.read()
        if error is not None:
            raise CliError(error.message, error.mend)
        if process.returncode:
            raise CliError(f"Joining failed: {_last_line(said)}", "`redoma doctor` looks for the cause.")

    def _run(self, argv: tuple[str, ...]) -> str:
        self.program.directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        try:
            done = subprocess.run(  # noqa: S603
                argv,
                env=dict(self.env),
                cwd=self.program.directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            task = next(part for part in reversed(argv) if part.startswith("--"))[2:].replace("-", " ")
            raise CliError(f"The provisioner did not {task} within {TIMEOUT_S:.0f} s.", "Try again.") from None
        if done.returncode:
            raise CliError(_last_line(done.stderr) or "The provisioner failed.", "`redoma doctor` looks for the cause.")
        return done.stdout


def parse_line(line: str) -> tuple[Step | None, Failure | None]:
    """Reads a line that `--join` prints: a step, or what came of it; neither of what is none of both."""
    try:
        entry = json.loads(line)
        if "title" in entry:
            return Step.read(entry), None
        error = entry.get("error")
        return None, Failure.read(error) if error else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, None


def _rendered(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _last_line(text: str) -> str:
    """Gives the last line that a program said, without its name before it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix(PROG) if lines else ""
