"""Ends a process in the midst of writing files, as far as a test can."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# All by which the files come to the disk; `open` and `write` of the bytes themselves come before `fsync`.
CALLS = ("open", "fsync", "rename", "replace", "symlink", "mkdir", "unlink", "rmdir")


class Killed(BaseException):
    """Stands for the end of the process: nothing tidies up after it."""


def _nothing(descriptor: int) -> None:
    """Stands for what takes long."""


@contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[list[str]]:
    """Ends the process before the call to the system that comes after so many."""
    done: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any, **options: Any) -> Any:
            if len(done) == steps:
                raise Killed(name)
            done.append(name)
            return call(*arguments, **options)

        return do

    with monkeypatch.context() as patch:
        for name in CALLS:
            # Nothing here shows whether the bytes have come to the disk, which takes its time.
            call = _nothing if name == "fsync" else getattr(os, name)
            patch.setattr(os, name, counted(name, call))
        yield done
