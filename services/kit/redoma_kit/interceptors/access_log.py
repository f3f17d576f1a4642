"""Logs one line a call: who, what, how long, how it ended. Never what was said."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import structlog

from redoma_kit.interceptors.pipeline import Call
from redoma_kit.policy import PROBES


class AccessLog:
    """Logs each call when it ends; health probes at debug level, and of `quiet` methods only failures."""

    def __init__(self, log: structlog.stdlib.BoundLogger, quiet: Collection[str] = ()) -> None:
        self._log = log
        self._quiet = frozenset(quiet)

    @asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        code = "OK"
        try:
            yield
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except BaseException:
            code = call.failure.code.name if call.failure else "UNKNOWN"
            raise
        finally:
            if code != "OK" or call.method not in self._quiet:
                self._write(call, code)

    def _write(self, call: Call, code: str) -> None:
        write = self._log.debug if call.method in PROBES else self._log.info
        write(
            "call",
            method=call.method,
            code=code,
            reason=call.failure.reason if call.failure else None,
            duration_s=round(time.monotonic() - call.started_at, 4),
            messages=call.messages_sent,
            peer=call.peer,
            tenant=call.identity.tenant if call.identity else None,
            principal=call.identity.principal if call.identity else None,
        )
