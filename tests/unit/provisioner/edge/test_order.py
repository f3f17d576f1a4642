"""What goes out when: nothing is used before it is there, nothing is taken away before it is used no more."""

import pytest

from redoma_provisioner.edge.served import Served
from redoma_provisioner.edge.session import MAX_UNANSWERED, Response
from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from tests.unit.provisioner.edge.conversation import Conversation, resources_of, served_of

X = {"x": 0}


def served(
    clusters: dict[str, int],
    routed: list[str],
    endpoints: dict[str, int] | None = None,
    listeners: dict[str, int] = X,
) -> Served:
    """Makes what is served: clusters, and routes of x to some of them."""
    return served_of(resources_of(clusters, endpoints or {}, listeners, {"x": routed}))


@pytest.fixture(params=[False, True], ids=["state of the world", "incremental"])
def conversation(request: pytest.FixtureRequest) -> Conversation:
    """An Envoy that has the cluster a and routes to it."""
    made = Conversation(request.param, served({"a": 0}, ["a"]))
    made.settle()
    return made


def types_of(responses: list[Response]) -> list[str]:
    """Lists the types, in order."""
    return [response.type_url for response in responses]


def test_new_cluster_is_warm_before_routes_name_it(conversation: Conversation) -> None:
    conversation.served = served({"a": 0, "b": 0}, ["b"])
    assert types_of(conversation.say()) == [CLUSTER]
    conversation.arrive()
    assert conversation.envoy.warming == {"b"}
    conversation.hear()
    # Its endpoints are asked for by now, and the clusters are not accepted.
    assert types_of(conversation.say()) == [ENDPOINTS]
    conversation.arrive()
    conversation.hear()
    assert types_of(conversation.say()) == [ROUTES]


def test_cluster_that_is_gone_before_it_is_warm_holds_nothing_up(conversation: Conversation) -> None:
    conversation.served = served({"a": 1, "b": 0}, ["a"])
    conversation.say(1)
    conversation.arrive()
    assert conversation.envoy.warming == {"a", "b"}
    conversation.served = served({"c": 0}, ["c"])
    conversation.settle()
    assert conversation.envoy.held[CLUSTER].keys() == {"c"} == conversation.envoy.routed()


def test_former_cluster_goes_when_the_routes_without_it_are_accepted(conversation: Conversation) -> None:
    conversation.served = served({"b": 0}, ["b"])
    order: list[tuple[str, bool]] = []
    for _ in range(20):
        for response in conversation.say():
            goes = "a" not in response.resources if not conversation.incremental else "a" in response.removed
            if response.type_url in (CLUSTER, ROUTES):
                order.append((response.type_url, goes and response.type_url == CLUSTER))
        conversation.arrive(1)
        assert conversation.envoy.routed() <= conversation.envoy.held[CLUSTER].keys()
        conversation.hear()
    assert order == [(CLUSTER, False), (ROUTES, False), (CLUSTER, True)]
    assert conversation.envoy.held[CLUSTER].keys() == {"b"}


def test_clusters_stay_while_the_routes_without_them_are_refused(conversation: Conversation) -> None:
    conversation.served = served({"b": 0}, ["b"])
    conversation.settle(refused=ROUTES)
    assert conversation.envoy.routed() == {"a"}
    assert conversation.envoy.held[CLUSTER].keys() == {"a", "b"}
    routes = conversation.session.subscriptions[ROUTES]
    assert routes.refusal == "because"
    assert routes.accepted_version != conversation.served.snapshot.version
    # A snapshot that it accepts sets all right.
    conversation.served = served({"b": 0, "c": 0}, ["b", "c"])
    conversation.settle()
    assert conversation.envoy.routed() == {"b", "c"} == conversation.envoy.held[CLUSTER].keys()
    assert routes.refusal == ""
    assert routes.accepted_version == conversation.served.snapshot.version


def test_listener_goes_while_a_cluster_warms(conversation: Conversation) -> None:
    conversation.served = served({"a": 0}, ["a"], listeners={"x": 0, "y": 0})
    conversation.settle()
    conversation.served = served({"a": 0, "b": 0}, ["a"], listeners={"x": 0, "y": 0})
    conversation.say()
    conversation.arrive()
    assert conversation.envoy.warming
    # Revoked: it waits for no answer.
    conversation.served = served({"a": 0, "b": 0}, ["a"])
    (response,) = conversation.say()
    assert response.type_url == LISTENER
    assert "y" not in response.resources
    conversation.arrive()
    assert conversation.envoy.held[LISTENER].keys() == {"x"}


def test_endpoints_come_again_with_their_cluster_and_with_no_other(conversation: Conversation) -> None:
    conversation.served = served({"a": 0, "b": 0}, ["a"])
    conversation.settle()
    conversation.served = served({"a": 1, "b": 0}, ["a"])
    first, second = conversation.say()
    assert (first.type_url, second.type_url) == (CLUSTER, ENDPOINTS)
    assert second.resources.keys() == ({"a"} if conversation.incremental else {"a", "b"})


def test_endpoints_come_again_with_a_cluster_that_was_refused_before(conversation: Conversation) -> None:
    conversation.served = served({"a": 1}, ["a"])
    conversation.settle(refused=CLUSTER)
    # Another cluster changes, so that the refused one is sent once more, and taken.
    conversation.served = served({"a": 1, "b": 0}, ["a"])
    conversation.settle()
    assert not conversation.envoy.warming
    assert conversation.envoy.held[CLUSTER].keys() == {"a", "b"}


def test_who_comes_back_is_sent_nothing_that_it_has(conversation: Conversation) -> None:
    conversation.cut()
    conversation.hear()
    assert conversation.say() == []
    conversation.served = served({"a": 0}, ["a"], endpoints={"a": 2})
    assert types_of(conversation.say()) == [ENDPOINTS]


def test_who_comes_back_to_another_snapshot_is_sent_what_differs(conversation: Conversation) -> None:
    conversation.served = served({"a": 1}, ["a"])
    conversation.cut()
    conversation.hear()
    assert types_of(conversation.say()) == [CLUSTER, ENDPOINTS]


def test_stream_that_broke_between_a_cluster_and_its_endpoints_leaves_none_waiting(conversation: Conversation) -> None:
    conversation.served = served({"a": 1}, ["a"])
    conversation.say()
    conversation.arrive(1)
    assert conversation.envoy.warming == {"a"}
    conversation.cut()
    conversation.settle()
    assert not conversation.envoy.warming


def test_who_comes_back_keeps_a_cluster_until_its_routes_were_heard_of() -> None:
    # In the other protocol an Envoy does not say what it has.
    conversation = Conversation(incremental=True, first=served({"a": 0}, ["a"]))
    conversation.settle()
    conversation.served = served({"b": 0}, ["b"])
    conversation.cut()
    for _ in range(20):
        conversation.hear(1)
        conversation.say(1)
        conversation.arrive(1)
        assert conversation.envoy.routed() <= conversation.envoy.held[CLUSTER].keys()
    conversation.settle()
    assert conversation.envoy.held[CLUSTER].keys() == {"b"}


def test_refused_resource_is_not_sent_again_as_it_is(conversation: Conversation) -> None:
    conversation.served = served({"a": 1}, ["a"])
    conversation.settle(refused=CLUSTER)
    conversation.served = served({"a": 1}, ["a"], endpoints={"a": 1})
    assert CLUSTER not in types_of(conversation.say())
    assert conversation.session.subscriptions[CLUSTER].refusal == "because"


def test_envoy_that_does_not_answer_is_sent_little(conversation: Conversation) -> None:
    count = 0
    for revision in range(1, 100):
        conversation.served = served({"a": 0}, ["a"], endpoints={"a": revision})
        count += len(conversation.say())
    assert count == MAX_UNANSWERED
    conversation.settle()
    last = conversation.served.snapshot.resource_versions[ENDPOINTS]["a"]
    assert conversation.envoy.held[ENDPOINTS] == {"a": last}


def test_snapshot_of_more_than_a_response_comes_in_pieces() -> None:
    resources = resources_of({f"c{number}": 0 for number in range(10)}, {}, X, {})
    conversation = Conversation(incremental=True, first=served_of(resources, size=1 << 20))
    conversation.hear()
    said = conversation.say()
    assert [len(response.resources) for response in said] == [2, 2, 2, 2, 2]
    conversation.settle()
    assert conversation.envoy.held[CLUSTER].keys() == resources[CLUSTER].keys()


def test_cluster_gone_before_its_endpoints_were_asked_for_holds_no_new_envoy_up(conversation: Conversation) -> None:
    conversation.restart()
    conversation.hear(1)
    assert types_of(conversation.say(1)) == [CLUSTER]
    conversation.served = served({}, [], listeners={})
    assert types_of(conversation.say()) == [CLUSTER]
    conversation.arrive()
    assert conversation.envoy.held[CLUSTER] == {}
    assert not conversation.envoy.warming
