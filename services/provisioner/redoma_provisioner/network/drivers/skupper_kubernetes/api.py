"""Speaks with the API server: blocking calls, JSON in and out, for one namespace.

Kubernetes' own client carries them: it knows kubeconfig files, accounts of pods and how their tokens are renewed.
"""

import http
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import urllib3
from kubernetes.client import ApiClient, ApiException
from urllib3.exceptions import HTTPError

from redoma_provisioner.network.driver import DriverUnavailable
from redoma_provisioner.network.drivers.skupper_kubernetes.failure import (
    Answer,
    ChangedMeanwhile,
    NotThere,
    VersionTooOld,
    failure_of,
    unreachable,
)
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import BY_NAME, Kind

FIELD_MANAGER = "redoma-provisioner"
CONNECT_S = 5.0
READ_S = 15.0
WATCH_S = 240
LARGEST_ANSWER = 32 * 1024 * 1024
PAGE = 500
# The rest of a Secret is nobody's affair here.
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"

Manifest = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Listing:
    """All resources of one kind, and the version of the whole that a watch goes on from."""

    items: tuple[Manifest, ...] = field(repr=False)
    version: str


class Changes(Protocol):
    """A watch that is open."""

    def __iter__(self) -> Iterator[Manifest]:
        """Gives each event as it comes: {"type", "object"}. Ends when the API server or `stop` ends it."""
        ...

    def stop(self) -> None:
        """Ends it from another thread, also while it waits."""
        ...


class ApiServer(Protocol):
    """One namespace of a cluster. Every method blocks, each for a bounded time.

    Each raises DriverRefused or DriverUnavailable, and what `failure` has besides, where it says so.
    """

    @property
    def namespace(self) -> str:
        """Which namespace."""
        ...

    def list(self, kind: Kind, limit: int = 0) -> Listing:
        """Gives all of a kind, or the first `limit`."""
        ...

    def metadata(self, kind: Kind, name: str) -> Manifest:
        """Gives a resource's metadata. Raises NotThere."""
        ...

    def apply(self, manifest: Manifest, *, force: bool = False) -> None:
        """Has the fields of a resource be so, and owns them; `force` takes them from whoever owns them.

        Raises FieldsOwned, ChangedMeanwhile.
        """
        ...

    def mark(self, kind: Kind, name: str, metadata: Manifest) -> None:
        """Sets parts of a resource's metadata. Raises NotThere, ChangedMeanwhile."""
        ...

    def delete(self, kind: Kind, name: str, uid: str = "") -> None:
        """Deletes a resource if it is there, and is the one with this `uid`."""
        ...

    def watch(self, kind: Kind, version: str) -> Changes:
        """Opens a watch of a kind from a version on. Raises VersionTooOld."""
        ...

    def close(self) -> None:
        """Lets go of its connections."""
        ...


class KubernetesApi:
    """An API server by Kubernetes' client."""

    def __init__(self, client: ApiClient, namespace: str, read_s: float = READ_S) -> None:
        """`read_s`: the longest that it is waited for an answer, in seconds."""
        self._client = client
        self._read_s = read_s
        self.namespace = namespace

    def list(self, kind: Kind, limit: int = 0) -> Listing:
        """See ApiServer."""
        items: list[Manifest] = []
        query = {"limit": str(limit or PAGE)}
        while True:
            page = self._request("GET", kind, query=query)
            found, metadata = page.get("items"), _mapping(page, "metadata")
            items += [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
            more = str(metadata.get("continue") or "")
            if not more or limit:
                return Listing(tuple(items), str(metadata.get("resourceVersion", "")))
            query["continue"] = more

    def metadata(self, kind: Kind, name: str) -> Manifest:
        """See ApiServer."""
        return _mapping(self._request("GET", kind, name), "metadata")

    def apply(self, manifest: Manifest, *, force: bool = False) -> None:
        """See ApiServer."""
        kind, name = BY_NAME[str(manifest["kind"])], str(_mapping(manifest, "metadata")["name"])
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict", "force": "true" if force else "false"}
        self._request("PATCH", kind, name, query=query, body=manifest, content_type=_APPLY)

    def mark(self, kind: Kind, name: str, metadata: Manifest) -> None:
        """See ApiServer."""
        query = {"fieldManager": FIELD_MANAGER}
        self._request("PATCH", kind, name, query=query, body={"metadata": metadata}, content_type=_MERGE)

    def delete(self, kind: Kind, name: str, uid: str = "") -> None:
        """See ApiServer."""
        body = {"propagationPolicy": "Background", **({"preconditions": {"uid": uid}} if uid else {})}
        # Gone already, or another's by now.
        with suppress(NotThere, ChangedMeanwhile):
            self._request("DELETE", kind, name, body=body)

    def watch(self, kind: Kind, version: str) -> Changes:
        """See ApiServer."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
        }
        response = self._send("GET", kind, "", query, None, "application/json", WATCH_S + READ_S)
        if response.status != http.HTTPStatus.OK:
            raise self._failure(response, kind, "")
        return KubernetesChanges(response)

    def close(self) -> None:
        """See ApiServer."""
        self._client.rest_client.close()

    def _request(
        self,
        method: str,
        kind: Kind,
        name: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        response = self._send(method, kind, name, query or {}, body, content_type, self._read_s)
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise self._failure(response, kind, name)
        found = json.loads(self._read(response))
        return found if isinstance(found, dict) else {}

    def _send(
        self,
        method: str,
        kind: Kind,
        name: str,
        query: Mapping[str, str],
        body: Manifest | None,
        content_type: str,
        read_s: float,
    ) -> urllib3.BaseHTTPResponse:
        path = f"{kind.path}/namespaces/{self.namespace}/{kind.plural}" + (f"/{name}" if name else "")
        headers = {"Accept": _METADATA if kind.name == "Secret" else "application/json", "Content-Type": content_type}
        try:
            method, url, headers, _, form = self._client.param_serialize(
                method, path, query_params=list(query.items()), header_params=headers, auth_settings=["BearerToken"]
            )
            answer = self._client.call_api(
                method,
                url,
                headers,
                body,
                form,
                _request_timeout=(CONNECT_S, read_s),
            )
        except (ApiException, HTTPError, OSError) as error:
            raise unreachable(self._client.configuration.host, _why(error)) from None
        response: urllib3.BaseHTTPResponse = answer.response
        return response

    def _failure(self, response: urllib3.BaseHTTPResponse, kind: Kind, name: str) -> Exception:
        try:
            found = json.loads(self._read(response))
        except ValueError:
            found = {}
        told = found if isinstance(found, dict) else {}
        answer = Answer(
            response.status, str(told.get("reason", "")), str(told.get("message", "")), _mapping(told, "details")
        )
        return failure_of(answer, kind, name, self.namespace)

    def _read(self, response: urllib3.BaseHTTPResponse) -> bytes:
        try:
            content = response.read(LARGEST_ANSWER, decode_content=True)
            whole = response.read(1) == b""
        except (HTTPError, OSError) as error:
            raise unreachable(self._client.configuration.host, _why(error)) from None
        finally:
            response.release_conn()
        if not whole:
            response.close()
            raise DriverUnavailable(f"The API server's answer is larger than {LARGEST_ANSWER} bytes; it is not read.")
        return content


class KubernetesChanges:
    """A watch over an HTTP response that goes on."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        """`response`: with its body unread."""
        self._response = response

    def __iter__(self) -> Iterator[Manifest]:
        """Gives each event.

        Raises:
            VersionTooOld: The API server does not remember so far back.
            OSError, HTTPError: The connection broke.
        """
        rest = b""
        try:
            for chunk in self._response.stream(64 * 1024, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _event(line)
        finally:
            self._response.close()

    def stop(self) -> None:
        """Ends it from another thread."""
        with suppress(ValueError, RuntimeError, OSError):
            self._response.shutdown()


def _event(line: bytes) -> Manifest:
    event = json.loads(line)
    if not isinstance(event, dict):
        raise ValueError("an event of a watch is no object")
    if event.get("type") == "ERROR":
        told = _mapping(event, "object")
        if told.get("code") == http.HTTPStatus.GONE:
            raise VersionTooOld(str(told.get("message", "")))
        raise OSError(str(told.get("message", "the watch failed")))
    return event


def _mapping(manifest: Manifest, key: str) -> Manifest:
    value = manifest.get(key)
    return value if isinstance(value, dict) else {}


def _why(error: Exception) -> str:
    """Gives the cause in a few words, without the address of an object in memory."""
    cause: BaseException = error
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        cause = error.reason
    text = getattr(cause, "reason", None) or str(cause)
    return str(text).rpartition("object at ")[2].rpartition(">: ")[2].replace("\n", " ")[:160] or type(cause).__name__
