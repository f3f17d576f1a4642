"""The provisioner's one-shot commands as `redoma` runs them: a stand-in program says what the real one would."""

import json
import os
from pathlib import Path

import pytest

from redoma_cli.errors import CliError
from redoma_cli.local.membership import Failure, Step
from redoma_cli.local.provisioner_program import ProvisionerProgram, parse_line
from redoma_cli.local.service import Program

STAND_IN = """
import json, os, pathlib, sys
task = sys.argv[3:]
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(task) + "\\n")
if (here / "refusal").exists():
    sys.exit("redoma-provisioner: " + (here / "refusal").read_text())
if task[0] == "--join":
    token = sys.stdin.readline().strip()
    (here / "link_file").write_text(os.environ.get("REDOMA_PROVISIONER_LINK_FILE", ""))
    print(json.dumps({"step": 1, "of": 2, "title": "Read the token", "state": "done", "detail": ""}), flush=True)
    if token == "good":
        print(json.dumps({"phase": "JOINED", "site": "a", "error": None}))
    else:
        error = {"reason": "GRANT_EXPIRED", "message": "The token has expired.", "mend": "Ask for another."}
        print(json.dumps({"phase": "REFUSED", "site": "", "error": error}))
        sys.exit(1)
elif task[0] == "--print-bootstrap":
    print(json.dumps({"bootstrap": {"node": task[1]}, "secrets": {"resources": []}}))
elif task[0] == "--probe-link":
    print(json.dumps({"reason": "Refused", "message": "Nobody listens there."}))
else:
    print("made " + " ".join(task))
"""


@pytest.fixture
def program(tmp_path: Path) -> ProvisionerProgram:
    """A provisioner whose program is the stand-in."""
    package = tmp_path / "packages" / "redoma_stand_in"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    config = tmp_path / "provisioner.toml"
    config.write_text("")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package.parent)}
    return ProvisionerProgram(Program("provisioner", "stand_in", config, tmp_path / "run"), environment)


def calls_of(program: ProvisionerProgram) -> list[list[str]]:
    """Gives what the program was asked for."""
    package = Path(program.env["PYTHONPATH"]) / "redoma_stand_in"
    file = package / "calls"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def refuse(program: ProvisionerProgram, sentence: str) -> None:
    """Makes the program fail."""
    (Path(program.env["PYTHONPATH"]) / "redoma_stand_in" / "refusal").write_text(sentence)


def test_grant_is_made_and_a_refusal_told_as_it_is(program: ProvisionerProgram) -> None:
    assert program.make_link_grant("private", rejoin=False) == "made --make-link-grant private"
    assert program.make_link_grant("private", rejoin=True) == "made --make-rejoin-grant private"
    refuse(program, "The site private was revoked.")
    with pytest.raises(CliError, match=r"^The site private was revoked\.$"):
        program.make_link_grant("private", rejoin=False)


def test_link_is_probed_and_where_it_cant_be_that_is_told(program: ProvisionerProgram) -> None:
    assert program.link_problem() == Failure("Refused", "Nobody listens there.", "")
    refuse(program, "This site has not joined.")
    with pytest.raises(CliError, match="has not joined"):
        program.link_problem()


def test_joining_tells_each_step_and_puts_the_token_on_no_command_line(program: ProvisionerProgram) -> None:
    steps: list[Step] = []
    program.join("good", steps.append)
    assert steps == [Step("Read the token", "done")]
    assert calls_of(program) == [["--join"]]


def test_refused_join_is_told_with_its_mend(program: ProvisionerProgram) -> None:
    with pytest.raises(CliError, match="has expired") as told:
        program.join("bad", lambda step: None)
    assert told.value.mend == "Ask for another."
    refuse(program, "membership_dir is not set.")
    with pytest.raises(CliError, match=r"membership_dir is not set\."):
        program.join("good", lambda step: None)


def test_bootstrap_is_printed_anew_only_when_what_it_is_made_of_changed(program: ProvisionerProgram) -> None:
    first = program.bootstrap("gateway", "private")
    printed = len(calls_of(program))
    assert printed
    assert program.bootstrap("gateway", "private") == first
    assert len(calls_of(program)) == printed
    program.bootstrap("gateway", "hospital-a")
    assert len(calls_of(program)) == 2 * printed
    program.program.config.write_text("# changed")
    program.bootstrap("gateway", "hospital-a")
    assert len(calls_of(program)) == 3 * printed
    for file in (first, program.program.directory / "gateway-secrets.json"):
        file.unlink()
        program.bootstrap("gateway", "hospital-a")
        assert file.exists()
    assert json.loads(first.read_text()) == {"node": "gateway"}


def test_lines_that_are_no_steps_are_passed_over() -> None:
    for line in ("", "no JSON", "[]", "1", '{"title": 1}'):
        assert parse_line(line) == (None, None)


def test_link_file_is_named_by_its_whole_path(
    program: ProvisionerProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program.join("good", lambda step: None, Path("link.yaml"))
    told = Path(program.env["PYTHONPATH"]) / "redoma_stand_in" / "link_file"
    assert told.read_text() == str(tmp_path / "link.yaml")
    program.join("good", lambda step: None)
    assert told.read_text() == ""
