"""Only what Skupper's router on Kubernetes can do is planned; each of the rest is refused with what to give instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_provisioner.network.driver import DesiredConnector, DesiredLink
from redoma_provisioner.network.drivers.skupper_kubernetes.known import Known
from redoma_provisioner.network.drivers.skupper_kubernetes.link import name_for, planned_link
from redoma_provisioner.network.drivers.skupper_kubernetes.plan import planned_access, planned_connectors
from tests.unit.provisioner.skupper_kubernetes.link_files import link_file

NOTHING = Known("hospital-a", {})


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("unix:model.sock", "Unix socket"),
        ("127.0.0.1:50051", "find only itself"),
        ("localhost:50051", "find only itself"),
        ("[::1]:50051", "find only itself"),
        ("model", "HOST:PORT"),
        ("model:0", "1 to 65535"),
        ("model:99999", "1 to 65535"),
        ("selector:app:50051", "KEY=VALUE"),
        ("selector:!!:50051", "KEY=VALUE"),
        ("selector:app=model", "KEY=VALUE"),
    ],
)
def test_a_target_that_no_router_reaches_is_refused(target: str, words: str) -> None:
    good = DesiredConnector("hospital-a.model-1", "model.redoma.svc:50051")
    plan = planned_connectors([DesiredConnector("hospital-a.model-0", target), good])
    assert [one.spec["routingKey"] for one in plan.resources] == [good.routing_key]
    (refusal,) = plan.refusals
    assert words in refusal and refusal.endswith(".")


def test_a_selector_follows_ready_pods() -> None:
    (made,) = planned_connectors([DesiredConnector("h.m", "selector:app=model,tier=gpu:50051")]).resources
    assert made.spec == {"routingKey": "h.m", "selector": "app=model,tier=gpu", "port": 50051, "type": "tcp"}


def test_each_role_of_the_link_access_has_a_port() -> None:
    """Skupper takes a role without one, and never gives the site an address then."""
    (made,) = planned_access(Known("public", {}), "").resources
    roles = made.spec["roles"]
    assert isinstance(roles, list) and roles
    assert all(role["port"] for role in roles)


@given(st.text(max_size=300))
def test_no_target_breaks_the_plan(target: str) -> None:
    plan = planned_connectors([DesiredConnector("hospital-a.model-0", target)])
    assert len(plan.resources) + len(plan.refusals) == 1


@given(st.text(min_size=1, max_size=120))
def test_no_link_id_and_no_text_breaks_the_plan(text: str) -> None:
    plan = planned_link(DesiredLink(text, resources=text), NOTHING, {})
    assert plan.resources or plan.refusals


def test_another_token_makes_another_name() -> None:
    """What Skupper makes of a token must not meet what a former one left behind."""
    first, second = DesiredLink("main", resources="a"), DesiredLink("main", resources="b")
    assert name_for(first) != name_for(second)


def test_a_link_file_is_taken_as_it_is() -> None:
    plan = planned_link(DesiredLink("main", resources=link_file()), NOTHING, {})
    assert [one.kind for one in plan.resources] == ["Secret", "Link"]
    assert "BEGIN" not in repr(plan)


def test_a_link_without_resources_is_refused_where_there_is_none() -> None:
    (refusal,) = planned_link(DesiredLink("main"), NOTHING, {}).refusals
    assert "redoma van grant" in refusal
