"""What goes out when: nothing is used before it is there, nothing is taken away before it is used no more."""

from collections.abc import Iterator

import pytest

from redoma_provisioner.edge.served import Served
from redoma_provisioner.edge.session import MAX_UNANSWERED, Response, Session
from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET
from tests.unit.provisioner.edge.model_envoy import ModelEnvoy
from tests.unit.provisioner.edge.test_session import Conversation, IncrementalConversation, served

X = {"x": 0}


@pytest.fixture(params=[Conversation, IncrementalConversation], ids=["state of the world", "incremental"])
def conversation(request: pytest.FixtureRequest) -> Conversation:
    """An Envoy that has the cluster a and routes to it."""
    made: Conversation = request.param()
    made.connect(served({"a": 0}, {}, X, {"x": ["a"]}))
    return made


def sent(conversation: Conversation) -> list[Response]:
    """Gives all that can be sent now, without letting it arrive."""
    before = len(conversation.coming)
    conversation.say(100)
    return [response for response, _ in list(conversation.coming)[before:]]


def types_of(responses: list[Response]) -> list[str]:
    """Lists the types, in order."""
    return [response.type_url for response in responses]


def test_new_cluster_is_warm_before_routes_name_it(conversation: Conversation) -> None:
    conversation.served = served({"a": 0, "b": 0}, {}, X, {"x": ["b"]})
    assert types_of(sent(conversation)) == [CLUSTER]
    conversation.arrive(100)
    assert conversation.envoy.warming == {"b"}
    conversation.hear(100)
    # Its endpoints are asked for by now, and the clusters are not accepted.
    assert types_of(sent(conversation)) == [ENDPOINTS]
    conversation.arrive(100)
    conversation.hear(100)
    assert types_of(sent(conversation)) == [ROUTES]


def test_former_cluster_goes_when_the_routes_without_it_are_accepted(conversation: Conversation) -> None:
    conversation.served = served({"b": 0}, {}, X, {"x": ["b"]})
    order: list[tuple[str, bool]] = []
    for _ in range(20):
        for response in sent(conversation):
            goes = "a" not in response.resources if not conversation.incremental else "a" in response.removed
            if response.type_url in (CLUSTER, ROUTES):
                order.append((response.type_url, goes and response.type_url == CLUSTER))
        conversation.arrive(1)
        assert conversation.envoy.routed() <= conversation.envoy.held[CLUSTER].keys()
        conversation.hear(100)
    assert order == [(CLUSTER, False), (ROUTES, False), (CLUSTER, True)]
    assert conversation.envoy.held[CLUSTER].keys() == {"b"}


def test_clusters_stay_while_the_routes_without_them_are_refused(conversation: Conversation) -> None:
    conversation.served = served({"b": 0}, {}, X, {"x": ["b"]})
    for _ in range(20):
        sent(conversation)
        while conversation.coming:
            response, snapshot = conversation.coming.popleft()
            conversation.envoy.take(response, snapshot, refuse=response.type_url == ROUTES)
        conversation.hear(100)
    assert conversation.envoy.routed() == {"a"}
    assert conversation.envoy.held[CLUSTER].keys() == {"a", "b"}
    routes = conversation.session.subscriptions[ROUTES]
    assert routes.refusal == "because"
    assert routes.accepted_version != conversation.served.snapshot.version
    # A snapshot that it accepts sets all right.
    conversation.served = served({"b": 0}, {}, X, {"x": ["b", "b"]})
    conversation.served = served({"b": 0, "c": 0}, {}, X, {"x": ["b", "c"]})
    conversation.settle()
    assert conversation.envoy.routed() == {"b", "c"} == conversation.envoy.held[CLUSTER].keys()
    assert routes.refusal == ""
    assert routes.accepted_version == conversation.served.snapshot.version


def test_listener_goes_while_a_cluster_warms(conversation: Conversation) -> None:
    conversation.served = served({"a": 0}, {}, {"x": 0, "y": 0}, {"x": ["a"]})
    conversation.settle()
    conversation.served = served({"a": 0, "b": 0}, {}, {"x": 0, "y": 0}, {"x": ["a"]})
    sent(conversation)
    conversation.arrive(100)
    assert conversation.envoy.warming
    # Revoked: it waits for no answer.
    conversation.served = served({"a": 0, "b": 0}, {}, X, {"x": ["a"]})
    (response,) = sent(conversation)
    assert response.type_url == LISTENER
    assert "y" not in response.resources
    conversation.arrive(100)
    assert conversation.envoy.held[LISTENER].keys() == {"x"}


def test_endpoints_come_again_with_their_cluster_and_with_no_other(conversation: Conversation) -> None:
    conversation.served = served({"a": 0, "b": 0}, {}, X, {"x": ["a"]})
    conversation.settle()
    conversation.served = served({"a": 1, "b": 0}, {}, X, {"x": ["a"]})
    first, second = sent(conversation)
    assert (first.type_url, second.type_url) == (CLUSTER, ENDPOINTS)
    assert second.resources.keys() == ({"a"} if conversation.incremental else {"a", "b"})


def test_endpoints_come_again_with_a_cluster_that_was_refused_before(conversation: Conversation) -> None:
    conversation.served = served({"a": 1}, {}, X, {"x": ["a"]})
    sent(conversation)
    response, snapshot = conversation.coming.popleft()
    conversation.envoy.take(response, snapshot, refuse=True)
    conversation.settle()
    # Another cluster changes, so that the refused one is sent once more, and taken.
    conversation.served = served({"a": 1, "b": 0}, {}, X, {"x": ["a"]})
    conversation.settle()
    assert not conversation.envoy.warming
    assert conversation.envoy.held[CLUSTER].keys() == {"a", "b"}


def test_who_comes_back_is_sent_nothing_that_it_has(conversation: Conversation) -> None:
    conversation.cut()
    conversation.hear(100)
    assert sent(conversation) == []
    conversation.served = served({"a": 0}, {"a": 2}, X, {"x": ["a"]})
    assert types_of(sent(conversation)) == [ENDPOINTS]


def test_who_comes_back_to_another_snapshot_is_sent_what_differs(conversation: Conversation) -> None:
    conversation.served = served({"a": 1}, {}, X, {"x": ["a"]})
    conversation.cut()
    conversation.hear(100)
    assert types_of(sent(conversation)) == [CLUSTER, ENDPOINTS]


def test_stream_that_broke_between_a_cluster_and_its_endpoints_leaves_none_waiting(conversation: Conversation) -> None:
    conversation.served = served({"a": 1}, {}, X, {"x": ["a"]})
    sent(conversation)
    conversation.arrive(1)
    assert conversation.envoy.warming == {"a"}
    conversation.cut()
    conversation.settle()
    assert not conversation.envoy.warming


def test_refused_resource_is_not_sent_again_as_it_is(conversation: Conversation) -> None:
    conversation.served = served({"a": 1}, {}, X, {"x": ["a"]})
    sent(conversation)
    response, snapshot = conversation.coming.popleft()
    conversation.envoy.take(response, snapshot, refuse=True)
    conversation.settle()
    conversation.served = served({"a": 1}, {"a": 1}, X, {"x": ["a"]})
    assert CLUSTER not in types_of(sent(conversation))
    assert conversation.session.subscriptions[CLUSTER].refusal == "because"


def test_envoy_that_does_not_answer_is_sent_little(conversation: Conversation) -> None:
    count = 0
    for revision in range(1, 100):
        conversation.served = served({"a": 0}, {"a": revision}, X, {"x": ["a"]})
        count += len(sent(conversation))
    assert count == MAX_UNANSWERED
    conversation.settle()
    last = conversation.served.snapshot.resource_versions[ENDPOINTS]["a"]
    assert conversation.envoy.held[ENDPOINTS] == {"a": last}


def test_snapshot_of_more_than_a_response_comes_in_pieces() -> None:
    conversation = IncrementalConversation()
    many = served({f"c{number}": 0 for number in range(10)}, {}, X, {"x": []})
    for encoded in many.encoded[CLUSTER].values():
        object.__setattr__(encoded, "content", b"x" * (1 << 20))
    conversation.connect(many)
    assert conversation.envoy.held[CLUSTER].keys() == many.encoded[CLUSTER].keys()
