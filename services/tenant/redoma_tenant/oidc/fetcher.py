"""Fetches small JSON documents over HTTPS, bounded in time and size."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from redoma_tenant.oidc.directory import FetchFailed

MAX_BYTES = 512 << 10
STEP_TIMEOUT_S = 2.0
# Two documents are fetched while a request waits at the edge, which waits five seconds.
TOTAL_TIMEOUT_S = 2.0
MAX_CONNECTIONS = 20


class HttpFetcher:
    """Follows no redirect: a provider's documents lie where it says, and another place may not be as safe.

    A proxy that the environment names is used, except for this machine's own addresses.
    """

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            verify=ssl.create_default_context(),
            follow_redirects=False,
            timeout=STEP_TIMEOUT_S,
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
            mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
            headers={"accept": "application/json"},
        )

    async def get_json(self, url: str) -> Mapping[str, Any]:
        """Gives the JSON object at a URL.

        Raises:
            FetchFailed: It can't be had in time, or is something else.
        """
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT_S):
                return _object(await self._get(url))
        except TimeoutError:
            raise FetchFailed("it does not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise FetchFailed(f"it can't be reached ({type(error).__name__})") from None

    async def close(self) -> None:
        """Hangs up."""
        await self._client.aclose()

    async def _get(self, url: str) -> bytes:
        async with self._client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise FetchFailed(f"it answers with HTTP status {response.status_code}")
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise FetchFailed("its answer is too large")
            return bytes(content)


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise FetchFailed("its answer is not JSON") from None
    if not isinstance(value, dict):
        raise FetchFailed("its answer is no JSON object")
    return value
