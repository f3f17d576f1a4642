"""What an Envoy of this machine counts, by its admin interface on a Unix socket."""

import asyncio
import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from redoma_kit.unix_http import UnixConnection

TIMEOUT_S = 1.0


class AdminAway(Exception):
    """The Envoy does not answer; the message names its socket."""


class EnvoyAdmin:
    """Reads the statistics of one Envoy."""

    def __init__(self, socket_path: Path, timeout_s: float = TIMEOUT_S) -> None:
        self._socket_path = socket_path
        self._timeout_s = timeout_s

    async def stats(self, pattern: str) -> Mapping[str, int]:
        """Gives counters and gauges whose names match a regular expression.

        Raises:
            AdminAway: There is no answer.
        """
        try:
            body = await asyncio.to_thread(self._get, f"/stats?format=json&filter={quote(pattern, safe='')}")
            listed = json.loads(body)["stats"]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise AdminAway(f"{self._socket_path} does not answer.") from error
        return {one["name"]: one["value"] for one in listed if isinstance(one.get("value"), int)}

    def _get(self, path: str) -> bytes:
        connection = UnixConnection(self._socket_path, self._timeout_s)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()
