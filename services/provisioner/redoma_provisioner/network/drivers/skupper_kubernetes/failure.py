"""What an API server answers when it will not, in words that say what to do."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper.resource import VERSION
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import Kind

INSTALL = (
    f"kubectl apply -f https://github.com/skupperproject/skupper/releases/download/{VERSION}/skupper-cluster-scope.yaml"
)
MOST_WORDS = 400
_FORBIDDEN = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"')
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class NotThere(Exception):
    """The resource is not there."""


class ChangedMeanwhile(Exception):
    """Another wrote the resource between reading and writing it."""


class VersionTooOld(Exception):
    """The API server does not remember so far back; what there is must be listed again."""


class FieldsOwned(Exception):
    """Fields that are to be written are another's.

    Attributes:
        owners: What the API server says of each, such as 'conflict with "kubectl": .spec.port'.
    """

    def __init__(self, owners: Sequence[str]) -> None:
        super().__init__("; ".join(owners))
        self.owners = tuple(owners)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is no success.

    Attributes:
        status: Of HTTP.
        reason: Kubernetes' word for it, such as "Conflict"; empty where something else answered.
        message: Its sentence.
        details: What it adds.
    """

    status: int
    reason: str = ""
    message: str = ""
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def causes(self) -> list[Mapping[str, object]]:
        """What it names as causes."""
        causes = self.details.get("causes")
        return [one for one in causes if isinstance(one, Mapping)] if isinstance(causes, list) else []


def failure_of(answer: Answer, kind: Kind, name: str, namespace: str) -> Exception:
    """Gives the error for an answer to a request about one kind.

    Returns:
        NotThere, FieldsOwned, ChangedMeanwhile or VersionTooOld, which the driver deals with; DriverRefused and
        DriverUnavailable for what people must mend or wait for.
    """
    if answer.status == 404:
        return _absence(answer, kind, name, namespace)
    if answer.status == 409:
        owners = [str(one.get("message", "")) for one in answer.causes if one.get("reason") == "FieldManagerConflict"]
        return FieldsOwned(owners) if owners else ChangedMeanwhile(_words(answer))
    if answer.status == 410:
        return VersionTooOld(_words(answer))
    if answer.status == 401:
        return DriverRefused(
            "The cluster's API server does not accept the credentials. Renew the file that driver.kubeconfig names, or "
            "restart the pod so that it gets a fresh token."
        )
    if answer.status == 403:
        return DriverRefused(_forbidden(answer, kind, namespace))
    if answer.status in _PASSING or answer.status >= 500:
        return DriverUnavailable(
            f"The cluster's API server could not answer ({answer.status}: {_words(answer)}). It is asked again; "
            "if this lasts, look at the cluster."
        )
    return DriverRefused(_invalid(answer, kind, name))


def unreachable(host: str, why: str) -> DriverUnavailable:
    """Gives the error for an API server that does not answer at all."""
    return DriverUnavailable(
        f"The cluster's API server at {host} can't be reached ({why}). Check that it runs and that this machine may "
        "dial it; driver.kubeconfig names the file that says where it is."
    )


def _absence(answer: Answer, kind: Kind, name: str, namespace: str) -> Exception:
    if answer.details.get("kind") == "namespaces":
        return DriverRefused(f"The namespace {namespace} is not there. Make it: kubectl create namespace {namespace}.")
    if name and answer.details.get("name"):
        return NotThere(name)
    if kind.group == "skupper.io":
        return DriverRefused(
            f"The cluster does not know Skupper's kind {kind.name}: Skupper is not installed in it, or is older than "
            f"{VERSION}. Install it: {INSTALL}."
        )
    return NotThere(name)


def _forbidden(answer: Answer, kind: Kind, namespace: str) -> str:
    """Says which rule of a Role is missing; what is no matter of rights, such as a quota, is quoted."""
    found = _FORBIDDEN.search(answer.message)
    if found is None:
        return f"The cluster forbids it for {kind.plural} in {namespace}: {_words(answer)}. Ask who administers it."
    verb, resource, group = found.groups()
    return (
        f"The account of the provisioner may not {verb} {resource} in the namespace {namespace}. Add to its Role the "
        f'rule {{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}}.'
    )


def _invalid(answer: Answer, kind: Kind, name: str) -> str:
    what = f"The cluster refused the {kind.name} {name}: {_words(answer)}."
    if "unknown field" in answer.message or "field not declared in schema" in answer.message:
        return f"{what} Its Skupper is older than {VERSION}, which this needs. Update it: {INSTALL}."
    return f"{what} Mend what it names; it is tried again."


def _words(answer: Answer) -> str:
    """Gives what it says, short and without line breaks or a trailing dot."""
    text = " ".join((answer.message or answer.reason or f"status {answer.status}").split())
    return "".join(letter for letter in text if letter.isprintable())[:MOST_WORDS].rstrip(". ")
