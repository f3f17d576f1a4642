"""What scripts/install.sh says on a machine that lacks something: run in a copy, with stand-in programs."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
OS_RELEASE = Path("/etc/os-release")
ON_DEBIAN = OS_RELEASE.exists() and "debian" in OS_RELEASE.read_text()
ABSENT = "/no/such/compiler"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout in which nothing is installed."""
    target = tmp_path / "checkout"
    shutil.copytree(CHECKOUT / "scripts", target / "scripts")
    shutil.copytree(CHECKOUT / "requirements", target / "requirements")
    return target


def stand_in(copy: Path, name: str, script: str) -> None:
    """Puts a program before the machine's own."""
    file = copy / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def install(copy: Path, wanted: str = "run", **more: str) -> subprocess.CompletedProcess[str]:
    """Runs the script."""
    environ: Mapping[str, str] = {**os.environ, "PATH": f"{copy / 'bin'}:{os.environ['PATH']}", **more}
    return subprocess.run(
        [copy / "scripts" / "install.sh", wanted], env=environ, capture_output=True, text=True, timeout=100, check=False
    )


def test_missing_compiler_is_one_sentence_for_an_ordinary_user(copy: Path) -> None:
    stand_in(copy, "id", "echo 1000")
    done = install(copy, CXX=ABSENT)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == "error: This machine lacks a C++ compiler."
    assert second.startswith("mend:")
    assert "g++" in second


@pytest.mark.skipif(not ON_DEBIAN, reason="apt-get is Debian's and Ubuntu's")
def test_root_on_debian_gets_it_installed_and_is_told(copy: Path) -> None:
    stand_in(copy, "id", "echo 0")
    stand_in(copy, "apt-get", f'echo "$@" >>{copy}/apt-calls')
    done = install(copy, CXX=ABSENT)
    assert "This machine lacks a C++ compiler; installing with apt-get: g++" in done.stdout
    calls = (copy / "apt-calls").read_text().splitlines()
    assert calls == ["update", "install -y --no-install-recommends g++"]


@pytest.mark.skipif(not ON_DEBIAN, reason="apt-get is Debian's and Ubuntu's")
def test_failing_apt_is_told_with_its_last_words(copy: Path) -> None:
    stand_in(copy, "id", "echo 0")
    stand_in(copy, "apt-get", "echo 'E: Unable to locate package g++'; exit 100")
    done = install(copy, CXX=ABSENT)
    assert done.returncode == 1
    assert "Unable to locate package" in done.stderr
    assert "mend:" in done.stderr


def test_old_python_and_missing_venv_are_told(copy: Path) -> None:
    stand_in(copy, "id", "echo 1000")
    stand_in(copy, "old-python", "exit 1")
    assert "lacks Python 3.11 or newer" in install(copy, PYTHON="old-python").stderr
    stand_in(copy, "bare-python", 'case "$2" in *ensurepip*) exit 1 ;; esac')
    assert "lacks Python's venv module" in install(copy, PYTHON="bare-python").stderr


def test_full_disk_is_told_before_anything_is_made(copy: Path) -> None:
    stand_in(copy, "df", "echo Filesystem; echo 'disk 1000 990 10 99% /'")
    done = install(copy)
    assert done.returncode == 1
    assert "Only 10 MiB are free" in done.stderr
    assert not (copy / ".venv").exists()


def test_failed_step_leaves_no_stamp_so_that_it_is_done_again(copy: Path) -> None:
    (copy / "requirements" / "build.txt").write_text("no-hash-here==1.0\n")
    done = install(copy)
    assert done.returncode == 1
    assert "pip could not install" in done.stderr
    assert not list((copy / ".tools" / "stamps").iterdir())


def test_unreachable_index_is_told_as_that(copy: Path) -> None:
    done = install(copy, PIP_INDEX_URL="http://127.0.0.1:1/", PIP_RETRIES="1")
    assert done.returncode == 1
    assert "The package index can't be reached" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr


def test_programs_of_a_checkout_that_was_moved_run_from_its_new_place(copy: Path) -> None:
    (copy / "requirements" / "build.txt").write_text("")
    # Ends after the environment is made: no requirement has a hash.
    (copy / "requirements" / "run.txt").write_text("no-hash-here==1.0\n")
    install(copy)
    program = Path(".venv") / "bin" / "tool"
    header = f"#!{copy.resolve()}/.venv/bin/python\n"
    (copy / program).write_text(f"{header}import sys\nprint(sys.prefix)\n")
    (copy / program).chmod(0o755)
    moved = copy.with_name("moved to ") / "checkout"
    moved.parent.mkdir()
    for place in (moved, moved.parent / moved.relative_to("/")):
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = copy.rename(place)
        done = install(copy)
        assert "writing .venv's programs anew" in done.stdout
        said = subprocess.run([copy / program], capture_output=True, text=True, check=True).stdout
        assert said.strip() == str((copy / ".venv").resolve())
    assert "writing" not in install(copy).stdout


def test_unknown_wish_is_told(copy: Path) -> None:
    assert "does not know everything" in install(copy, "everything").stderr
