"""Runs one program to its end, within limits: no shell, a group of its own, bounded time and bounded output."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

LARGEST_OUTPUT = 4 * 1024 * 1024
REAP_S = 5.0
_CHUNK = 64 * 1024


class TooMuchOutput(Exception):
    """The program printed more than is read."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. What it printed may hold credentials, so it is not shown."""

    exit_code: int
    stdout: str = field(repr=False)
    stderr: str = field(repr=False)


class RunProgram(Protocol):
    """Runs a program to its end, as `run_program` does."""

    async def __call__(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, timeout_s: float
    ) -> "Outcome": ...


async def run_program(
    arguments: Sequence[str], environment: Mapping[str, str], *, timeout_s: float, output_limit: int = LARGEST_OUTPUT
) -> Outcome:
    """Runs a program; whatever happens, nothing of its group is left behind.

    Raises:
        FileNotFoundError, PermissionError: It can't be started.
        TimeoutError: It ran longer than `timeout_s`.
        TooMuchOutput: It printed more than `output_limit` bytes on one of its outputs.
    """
    process = await _start(arguments, environment)
    assert process.stdout is not None  # noqa: S101  asked for as a pipe, as is the other
    assert process.stderr is not None  # noqa: S101
    ended = False
    try:
        async with asyncio.timeout(timeout_s):
            async with asyncio.TaskGroup() as group:
                out = group.create_task(_read(process.stdout, output_limit))
                err = group.create_task(_read(process.stderr, output_limit))
            code = await process.wait()
            ended = True
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        if not ended:
            await _end(process)
    return Outcome(code, out.result(), err.result())


async def _start(arguments: Sequence[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Cancelled in the middle of starting, asyncio would kill the program alone and wait for its children to end.
        with suppress(OSError):
            await _end(await starting)
        raise


async def _read(stream: asyncio.StreamReader, limit: int) -> str:
    kept = bytearray()
    while chunk := await stream.read(_CHUNK):
        kept += chunk
        if len(kept) > limit:
            raise TooMuchOutput
    return kept.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kills the whole group, the program's own children too, and reaps it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(REAP_S):
            await asyncio.shield(process.wait())
