"""What the figures were taken on."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine and the programs on it that matter.

    Attributes:
        cores: Processors this process may use.
        memory_gib: Of the whole machine.
    """

    processor: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    llama_cpp_python: str
    model: str


def this_machine(model: Path) -> Machine:
    """Describes the machine that this runs on."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(memory / (1 << 30), 1),
        kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=platform.python_version(),
        llama_cpp_python=version("llama-cpp-python"),
        model=model.name,
    )


def commit() -> str:
    """Names the commit of the checkout, and says whether it was changed since."""
    revision = _git("rev-parse", "--short=12", "HEAD")
    return f"{revision} with changes" if revision and _git("status", "--porcelain") else revision or "unknown"


def resident_bytes(pid: int) -> int:
    """Gives the resident memory of a process.

    Raises:
        OSError: It is gone.
    """
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    result = subprocess.run(("git", *arguments), capture_output=True, text=True, check=False)
    return result.stdout.strip()
