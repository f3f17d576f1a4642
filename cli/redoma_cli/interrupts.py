"""Ctrl-C ends the call under way, wherever the program is just then.

Python raises KeyboardInterrupt between any two instructions, so also within grpc while it opens a call or holds a
lock. That call would go on with nobody who could end it, and later calls of the channel might never be answered.
"""

import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import grpc

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
C = TypeVar("C", bound="Call")


class Call(Protocol):
    """A call under way."""

    def cancel(self) -> bool | None:
        """Ends it; harmless when it has ended."""


class StreamingCall(Call, Protocol[T_co]):
    """A call that brings messages, or raises grpc.RpcError."""

    def __iter__(self) -> Iterator[T_co]:
        """Gives the messages as they come."""


class PendingCall(Call, Protocol[T_co]):
    """A call that brings one response."""

    def result(self) -> T_co:
        """Waits for it; raises grpc.RpcError, or grpc.FutureCancelledError when the call was cancelled here."""


class _Interrupt:
    """Ends a call, also one that is opened only afterwards."""

    def __init__(self) -> None:
        self._call: Call | None = None
        self.came = False

    def come(self) -> None:
        """Ends the call now, or as soon as there is one."""
        self.came = True
        if self._call is not None:
            self._call.cancel()

    def ends(self, call: C) -> C:
        """Says which call it is, and gives it."""
        self._call = call
        if self.came:
            call.cancel()
        return call

    def leave(self) -> None:
        """Ends the call if it goes on, and lets go of it."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()


def stream_of(open_call: Callable[[], StreamingCall[T]]) -> Generator[T]:
    """Opens a call and gives what it brings; closing the iterator ends the call.

    From before the call is opened until it has ended, Ctrl-C ends it and is raised only after that.

    Raises:
        grpc.RpcError: The call failed.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    interrupt = _Interrupt()
    try:
        with _holding(interrupt):
            yield from interrupt.ends(open_call())
    except grpc.RpcError:
        if interrupt.came:
            raise KeyboardInterrupt from None
        raise


def response_of(open_call: Callable[[], PendingCall[T]]) -> T:
    """Opens a call and waits for its response. Ctrl-C meanwhile ends the call and is raised only after that.

    Raises:
        grpc.RpcError: The call failed.
        KeyboardInterrupt: Ctrl-C came before the response was there.
    """
    interrupt = _Interrupt()
    try:
        with _holding(interrupt):
            response = interrupt.ends(open_call()).result()
    except (grpc.RpcError, grpc.FutureCancelledError):
        if not interrupt.came:
            raise
    if interrupt.came:
        raise KeyboardInterrupt
    return response


@contextmanager
def _holding(interrupt: _Interrupt) -> Iterator[None]:
    """Has Ctrl-C raise nothing, but come to `interrupt`, until its call is over."""
    # Elsewhere than in the main thread signals neither come nor can be handled.
    in_main = threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGINT, lambda _number, _frame: interrupt.come()) if in_main else None
    try:
        yield
    finally:
        # What the call does when it goes must not be interrupted either.
        interrupt.leave()
        if in_main:
            signal.signal(signal.SIGINT, former)
