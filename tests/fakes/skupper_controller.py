"""A stand-in for Skupper's controller and routers on a real API server: it sets the statuses that they would, and makes
what they would make of a token. No traffic flows. What it says is worded as version 2.2.1 words it.
"""

import json
import secrets
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

GROUP, VERSION = "skupper.io", "v2alpha1"
KINDS = {
    "Site": "sites",
    "RouterAccess": "routeraccesses",
    "Listener": "listeners",
    "Connector": "connectors",
    "Link": "links",
    "AccessGrant": "accessgrants",
    "AccessToken": "accesstokens",
}
PAUSE_S = 0.05
NO_SITE = "No active site in namespace"
CA = "-----BEGIN CERTIFICATE-----\nc3RhbmQtaW4=\n-----END CERTIFICATE-----\n"

Resource = dict[str, Any]


class SkupperStandIn:
    """Plays Skupper for every namespace of one cluster, on a thread of its own.

    Attributes:
        cut: Namespaces of private sites whose links carry nothing.
        silent: Whether it says nothing of anything, as if it did not run.
        refusing_tokens: What it says of each token, in place of redeeming it.
        no_address: Whether no site gets an address for links.
    """

    def __init__(self, kubeconfig: Path) -> None:
        """`kubeconfig`: of an account that may do everything."""
        self._api = admin(kubeconfig)
        self._objects: Any = client.CustomObjectsApi(self._api)
        self._core: Any = client.CoreV1Api(self._api)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="skupper stand-in", daemon=True)
        self._seen: dict[str, list[Resource]] = {}
        self._tried: set[tuple[str, str]] = set()
        self.cut: set[str] = set()
        self.silent = False
        self.no_address = False
        self.refusing_tokens = ""

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends."""
        self._stopped.set()
        self._thread.join(30.0)

    def is_reachable(self, namespace: str, listener: str) -> bool:
        """Tells whether a connection to a listener would reach a connector now."""
        found = [one for one in self._seen.get("Listener", []) if _id(one) == (namespace, listener)]
        return bool(found) and self._is_matched(namespace, found[0]["spec"]["routingKey"], "Connector")

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE_S):
            # The API server is killed in tests; a resource goes while it is looked at.
            with suppress(ApiException, HTTPError, OSError):
                self._seen = {kind: self._all(plural) for kind, plural in KINDS.items()}
                if not self.silent:
                    self._pass()

    def _all(self, plural: str) -> list[Resource]:
        found: Resource = self._objects.list_cluster_custom_object(GROUP, VERSION, plural, _request_timeout=5)
        return list(found["items"])

    def _pass(self) -> None:
        for site in self._seen["Site"]:
            self._say("Site", site, self._site_status(site))
        for access in self._seen["RouterAccess"]:
            self._say("RouterAccess", access, self._conditions(access, Configured="", Resolved=""))
        for grant in self._seen["AccessGrant"]:
            self._say("AccessGrant", grant, self._grant_status(grant))
        for token in self._seen["AccessToken"]:
            self._redeem(token)
        for link in self._seen["Link"]:
            active = self._active(_id(link)[0])
            up = "" if self._public_of(link) else "Not operational"
            self._say("Link", link, self._conditions(link, Configured="" if active else NO_SITE, Operational=up))
        for kind, other in (("Listener", "Connector"), ("Connector", "Listener")):
            for one in self._seen[kind]:
                self._say_service(kind, one, other)

    def _site_status(self, site: Resource) -> Resource:
        namespace, _ = _id(site)
        active = self._active(namespace)
        if active is None or active["metadata"]["uid"] != site["metadata"]["uid"]:
            name = active["metadata"]["name"] if active else ""
            return self._conditions(site, Configured=f"An active site already exists in the namespace ({name})")
        status = self._conditions(site, Configured="", Running="")
        if self._lets_in(namespace):
            roles = {"edge": "45671", "inter-router": "55671"}
            status["endpoints"] = [
                {"name": role, "host": namespace, "port": port, "group": "skupper-router"}
                for role, port in roles.items()
            ]
        status["network"] = [self._record(one) for one in (namespace, *self._linked_to(namespace))]
        return status

    def _record(self, namespace: str) -> Resource:
        site = self._active(namespace)
        links = [
            {"name": _id(link)[1], "operational": self._public_of(link) is not None}
            for link in self._in("Link", namespace)
        ]
        services = [
            {"routingKey": one["spec"]["routingKey"], "connectors": [one["metadata"]["name"]]}
            for one in self._in("Connector", namespace)
        ]
        return {"name": site["metadata"]["name"] if site else "", "links": links, "services": services}

    def _grant_status(self, grant: Resource) -> Resource:
        former = grant.get("status", {})
        window = str(grant["spec"].get("expirationWindow", "900s")).removesuffix("s")
        expires = datetime.now(UTC) + timedelta(seconds=float(window))
        return self._conditions(grant, Processed="", Resolved="") | {
            "url": f"https://localhost:9090/{grant['metadata']['uid']}",
            "code": former.get("code") or secrets.token_hex(12),
            "ca": CA,
            "expirationTime": former.get("expirationTime") or expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "redemptions": former.get("redemptions", 0),
        }

    def _redeem(self, token: Resource) -> None:
        namespace, name = _id(token)
        site = self._active(namespace)
        # As Skupper has it, one that failed is tried again when it changes, and every five minutes.
        tried = (token["metadata"]["uid"], json.dumps(token["metadata"].get("annotations", {}), sort_keys=True))
        if site is None or _holds(token, "Redeemed") or tried in self._tried:
            return
        self._tried.add(tried)
        problem = self.refusing_tokens or self._use_grant(token["spec"])
        if not problem:
            owner = [
                {
                    "apiVersion": f"{GROUP}/{VERSION}",
                    "kind": "Site",
                    "name": site["metadata"]["name"],
                    "uid": site["metadata"]["uid"],
                }
            ]
            data = {"tls.crt": "", "tls.key": "", "ca.crt": ""}
            metadata = {"name": name, "ownerReferences": owner}
            self._core.create_namespaced_secret(
                namespace, {"metadata": metadata, "type": "kubernetes.io/tls", "data": data}
            )
            public = self._grant(token["spec"]["url"])
            endpoints = [{"name": "edge", "host": _id(public)[0] if public else "", "port": "45671"}]
            body = {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "Link",
                "metadata": metadata,
                "spec": {"endpoints": endpoints, "tlsCredentials": name},
            }
            self._objects.create_namespaced_custom_object(GROUP, VERSION, namespace, "links", body)
        self._say("AccessToken", token, self._conditions(token, Redeemed=problem, ready=False))

    def _use_grant(self, spec: Mapping[str, Any]) -> str:
        """Uses a grant up; gives why it can't be."""
        failed = "Controller got failed response: "
        grant = self._grant(spec["url"])
        status = grant.get("status", {}) if grant else {}
        if grant is None or status.get("expirationTime", "") < datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"):
            return f"{failed}404 (Not Found) No such claim"
        if status.get("redemptions", 0) >= grant["spec"].get("redemptionsAllowed", 1):
            return f"{failed}404 (Not Found) No such access granted"
        if status.get("code") != spec["code"]:
            return f"{failed}403 (Forbidden) Redemption of access token refused"
        status["redemptions"] = status.get("redemptions", 0) + 1
        self._patch_status("AccessGrant", grant, status)
        if not self._lets_in(_id(grant)[0]):
            return f"{failed}500 (Internal Server Error) Could not resolve any endpoints for requested link"
        return ""

    def _grant(self, url: str) -> Resource | None:
        grants = self._seen["AccessGrant"]
        return next((one for one in grants if url.endswith(str(one["metadata"]["uid"]))), None)

    def _say_service(self, kind: str, one: Resource, other: str) -> None:
        namespace, _ = _id(one)
        problem = "" if self._active(namespace) else NO_SITE
        matched = self._is_matched(namespace, one["spec"]["routingKey"], other)
        words = "" if matched else f"No matching {other.lower()}s"
        # As Skupper has it, the loss of the site takes back only what is configured.
        if problem and _holds(one, "Matched"):
            words = ""
        self._say(kind, one, self._conditions(one, Configured=problem, Matched=words))

    def _is_matched(self, namespace: str, routing_key: str, other: str) -> bool:
        if self._active(namespace) is None:
            return False
        reached = {namespace, *self._linked_to(namespace)}
        return any(one["spec"]["routingKey"] == routing_key for place in reached for one in self._in(other, place))

    def _linked_to(self, namespace: str) -> list[str]:
        ends = [(_id(link)[0], self._public_of(link)) for link in self._seen["Link"]]
        outward = {public for private, public in ends if private == namespace and public}
        return [*outward, *{private for private, public in ends if public == namespace}]

    def _public_of(self, link: Resource) -> str | None:
        """Gives the namespace that a link leads to, if it carries."""
        namespace, _ = _id(link)
        endpoints = link["spec"].get("endpoints") or [{}]
        public = str(endpoints[0].get("host", ""))
        carries = self._active(namespace) and self._lets_in(public) and namespace not in self.cut
        return public if carries else None

    def _lets_in(self, namespace: str) -> bool:
        site = self._active(namespace)
        if site is None or self.no_address:
            return False
        # Skupper takes a role without a port, and then makes no Service for it.
        roles = [role for access in self._in("RouterAccess", namespace) for role in access["spec"]["roles"]]
        return site["spec"].get("linkAccess", "none") != "none" or any("port" in role for role in roles)

    def _active(self, namespace: str) -> Resource | None:
        sites = self._in("Site", namespace)
        already = [one for one in sites if _holds(one, "Configured")]
        oldest = sorted(sites, key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["name"]))
        return next(iter(already or oldest), None)

    def _in(self, kind: str, namespace: str) -> list[Resource]:
        return [one for one in self._seen[kind] if _id(one)[0] == namespace]

    def _conditions(self, one: Resource, ready: bool = True, **problems: str) -> Resource:
        """Gives a status in which each named condition holds unless it has a problem, and Ready holds if all do."""
        problem = next((words for words in problems.values() if words), "")
        if ready:
            problems = {**problems, "Ready": problem}
        former = {each["type"]: each for each in one.get("status", {}).get("conditions", [])}
        conditions = []
        for type_, words in problems.items():
            said = {
                "type": type_,
                "status": "False" if words else "True",
                "reason": "Pending" if words else "Ready",
                "message": words or "OK",
                "observedGeneration": one["metadata"]["generation"],
            }
            since = former.get(type_, {}).get("lastTransitionTime")
            conditions.append(said | {"lastTransitionTime": since or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")})
        return {"conditions": conditions, "status": "Error" if problem else "Ready", "message": problem or "OK"}

    def _say(self, kind: str, one: Resource, status: Resource) -> None:
        if json.dumps(one.get("status", {}), sort_keys=True) != json.dumps(status, sort_keys=True):
            with suppress(ApiException):
                self._patch_status(kind, one, status)

    def _patch_status(self, kind: str, one: Resource, status: Resource) -> None:
        namespace, name = _id(one)
        body = {"metadata": {"uid": one["metadata"]["uid"]}, "status": status}
        self._objects.patch_namespaced_custom_object_status(
            GROUP, VERSION, namespace, KINDS[kind], name, body, _content_type="application/merge-patch+json"
        )
        one["status"] = status


def admin(kubeconfig: Path) -> client.ApiClient:
    """Gives a client by a kubeconfig that tries nothing twice by itself."""
    settings = client.Configuration()
    settings.retries = False
    config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
    return client.ApiClient(settings)


def wait_for_kinds(kubeconfig: Path, timeout_s: float = 30.0) -> None:
    """Waits until the API server serves each of Skupper's kinds."""
    api: Any = client.CustomObjectsApi(admin(kubeconfig))
    deadline = time.monotonic() + timeout_s
    for plural in KINDS.values():
        while True:
            try:
                api.list_cluster_custom_object(GROUP, VERSION, plural)
                break
            except ApiException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def random_namespace(prefix: str) -> str:
    """Gives a name that no test had before."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def _id(one: Resource) -> tuple[str, str]:
    return str(one["metadata"]["namespace"]), str(one["metadata"]["name"])


def _holds(one: Resource, type_: str) -> bool:
    conditions = one.get("status", {}).get("conditions", [])
    return any(each["type"] == type_ and each["status"] == "True" for each in conditions)
