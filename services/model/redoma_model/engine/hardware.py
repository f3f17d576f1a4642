"""What this process may use of the machine: cores, memory, and how many KV cells that makes."""

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")
# What a request uses of its context window on average, for sizing the KV cache.
ORDINARY_TOKENS = 2_048
# Some 15 us: about what the threads of one step wait for each other on cores of their own.
SPIN_COUNT = "1000"
# The part of the free memory that the KV cache may take when it sizes itself.
MEMORY_SHARE = 0.25


def physical_cores() -> int:
    """Counts the physical cores this process may run on, within its CPU affinity and its control group's quota."""
    cpus = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in cpus}
    quota = _cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), int(quota + 0.5)))


def share_cores(environment: MutableMapping[str, str]) -> None:
    """Makes llama.cpp's threads give their cores up soon when they wait for each other, unless the operator chose.

    As they come, they spin for milliseconds; on a machine whose cores other processes use as well, they then keep the
    one thread from running that all wait for, and the rate falls to a tenth. Call it before llama.cpp is imported.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def _siblings(cpu: int) -> str:
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _cpu_quota() -> float | None:
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def available_memory_bytes() -> int:
    """Gives the memory that can be taken without swapping, within the control group's limit."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        available = min(available, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(0, available)


@dataclass(frozen=True, slots=True)
class CellBudget:
    """What the KV cache may cost.

    Attributes:
        bytes_per_cell: Of one token over all layers.
        available_bytes: Free memory; None when it is a device's, whose driver refuses what does not fit.
    """

    bytes_per_cell: float
    available_bytes: int | None

    def cells(self, slots: int, context_tokens: int) -> int:
        """Sizes the cache: an ordinary request in every slot, at least one whole context window, at most a share of the
        memory."""
        wanted = max(context_tokens, slots * min(ORDINARY_TOKENS, context_tokens))
        if self.available_bytes is not None and self.bytes_per_cell > 0:
            affordable = int(self.available_bytes * MEMORY_SHARE / self.bytes_per_cell)
            wanted = max(context_tokens, min(wanted, affordable))
        # llama.cpp rounds up to this.
        return (wanted + 255) // 256 * 256
