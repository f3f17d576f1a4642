"""What an API server will not do is told with the mending step, and what the driver deals with is told apart."""

import pytest

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper_kubernetes.failure import (
    INSTALL,
    Answer,
    ChangedMeanwhile,
    FieldsOwned,
    NotThere,
    VersionTooOld,
    failure_of,
)
from redoma_provisioner.network.drivers.skupper_kubernetes.kinds import LISTENER, SECRET

CONFLICT = {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl": .spec.port', "field": ".spec.port"}
CANNOT = (
    'listeners.skupper.io "a" is forbidden: User "x" cannot patch resource "listeners" in API group "skupper.io" in '
    'the namespace "ns"'
)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(404, "NotFound", "the server could not find the requested resource"), DriverRefused, INSTALL),
        (Answer(404, "", ""), DriverRefused, INSTALL),
        (
            Answer(404, "NotFound", 'namespaces "ns" not found', {"kind": "namespaces", "name": "ns"}),
            DriverRefused,
            "kubectl create namespace ns",
        ),
        (Answer(403, "Forbidden", CANNOT), DriverRefused, 'resources: ["listeners"], verbs: ["patch"]'),
        (Answer(403, "Forbidden", "exceeded quota: listeners"), DriverRefused, "exceeded quota"),
        (Answer(401, "Unauthorized", "Unauthorized"), DriverRefused, "driver.kubeconfig"),
        (Answer(400, "BadRequest", 'strict decoding error: unknown field "spec.x"'), DriverRefused, "older than"),
        (Answer(422, "Invalid", "spec.port: Invalid value"), DriverRefused, "spec.port"),
        (Answer(429, "TooManyRequests", "later"), DriverUnavailable, "429"),
        (Answer(503, "", ""), DriverUnavailable, "503"),
    ],
)
def test_people_are_told_what_to_mend(answer: Answer, kind: type[Exception], words: str) -> None:
    failure = failure_of(answer, LISTENER, "a", "ns")
    assert type(failure) is kind
    assert words in str(failure)
    assert str(failure).endswith(".")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(404, "NotFound", "", {"name": "a", "kind": "listeners"}), NotThere),
        (Answer(409, "Conflict", "", {"causes": [CONFLICT]}), FieldsOwned),
        (Answer(409, "Conflict", "the object has been modified"), ChangedMeanwhile),
        (Answer(409, "AlreadyExists", ""), ChangedMeanwhile),
        (Answer(410, "Expired", "too old resource version"), VersionTooOld),
    ],
)
def test_what_the_driver_deals_with_is_told_apart(answer: Answer, kind: type[Exception]) -> None:
    assert type(failure_of(answer, LISTENER, "a", "ns")) is kind


def test_a_missing_secret_is_not_taken_for_a_missing_skupper() -> None:
    answer = Answer(404, "NotFound", "", {"name": "a", "kind": "secrets"})
    assert isinstance(failure_of(answer, SECRET, "a", "ns"), NotThere)


def test_words_of_the_api_server_are_bounded() -> None:
    failure = failure_of(Answer(422, "Invalid", "x\n\x1b[31m" * 10_000), LISTENER, "a", "ns")
    assert len(str(failure)) < 1_000
    assert "\n" not in str(failure)
    assert "\x1b" not in str(failure)
