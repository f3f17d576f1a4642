"""What the commands for quotas, plans and prices send and print."""

import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from redoma.tenant.v1 import quota_pb2 as pb
from redoma.tenant.v1.quota_pb2 import Limits, LimitState, Plan, Price, Quota
from redoma_cli.commands.money import money_micros
from redoma_cli.commands.quota import limit_bar
from redoma_cli.errors import CliError
from tests.unit.cli.people_site import People


def quota() -> Quota:
    """Gives a quota with two limits."""
    return Quota(
        name="tenants/acme/quota",
        limits=Limits(tokens_per_day=1_000),
        effective_limits=Limits(tokens_per_day=1_000, budget_micros_per_month=2_500_000),
        states=[
            LimitState(
                limit="tokens_per_day", limit_value=1_000, used=850, reserved=100,
                reset_time=Timestamp(seconds=4_000_000_000), warning_percent=80,
            ),
            LimitState(limit="budget_micros_per_month", limit_value=2_500_000, used=1, reserved=0),
        ],
        at_limit=pb.AT_LIMIT_FINISH,
    )  # fmt: skip


def test_a_quota_is_shown_with_what_is_used(people: People) -> None:
    people.answers["GetQuota"] = pb.GetQuotaResponse(quota=quota())
    told = people.ok("quota", "show", "acme")
    assert people.only(pb.GetQuotaRequest).name == "tenants/acme/quota"
    lines = [line.split() for line in told.splitlines()]
    assert lines[1][:6] == ["tokens", "per", "day", "1,000", "850", "100"]
    assert lines[1][7:10] == ["over", "80", "%"]
    assert lines[1][-1] == "tenant"
    assert lines[2][:5] == ["budget", "per", "month", "2.5", "0.000001"]
    assert lines[2][-1] == "plan"
    assert "may finish" in told


def test_without_a_tenant_the_keys_own_is_shown(people: People) -> None:
    assert "no limits" in people.ok("quota", "show")
    assert people.only(pb.GetQuotaRequest).name == "tenants/-/quota"


def test_a_quota_is_json_for_programs(people: People) -> None:
    people.answers["GetQuota"] = pb.GetQuotaResponse(quota=quota())
    told = json.loads(people.ok("quota", "show", "acme", "--json"))
    assert told["states"][0]["limit"] == "tokens_per_day"


def test_only_what_is_given_is_set_and_none_takes_it_away(people: People) -> None:
    arguments = "--tokens-per-day 2M --budget-per-month 7.50 --concurrent-streams none --at-limit plan --etag 3"
    people.ok("quota", "set", "acme", *arguments.split())
    request = people.only(pb.UpdateQuotaRequest)
    assert request.quota == Quota(
        name="tenants/acme/quota",
        limits=Limits(tokens_per_day=2_000_000, budget_micros_per_month=7_500_000),
        etag="3",
    )
    assert set(request.update_mask.paths) == {
        "limits.tokens_per_day", "limits.budget_micros_per_month", "limits.concurrent_streams", "at_limit",
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [("quota", "set", "acme"), ("plan", "update", "gold")])
def test_a_change_of_nothing_is_refused(people: People, arguments: tuple[str, ...]) -> None:
    result = people.run(*arguments)
    assert isinstance(result.exception, CliError)
    assert people.asked == []


def test_a_plan_is_created_with_every_setting(people: People) -> None:
    arguments = (
        "--name Gold --weight 200 --requests-per-minute 60 --tokens-per-minute 20k --concurrent-streams 4"
        " --tokens-per-day 1M --tokens-per-month 20M --budget-per-month 100 --at-limit finish --warn-at 90 --warn-at 50"
    )
    people.ok("plan", "create", "gold", *arguments.split())
    request = people.only(pb.CreatePlanRequest)
    assert request.plan_id == "gold"
    assert request.plan == Plan(
        display_name="Gold",
        weight=200,
        limits=Limits(
            requests_per_minute=60,
            tokens_per_minute=20_000,
            concurrent_streams=4,
            tokens_per_day=1_000_000,
            tokens_per_month=20_000_000,
            budget_micros_per_month=100_000_000,
        ),
        at_limit=pb.AT_LIMIT_FINISH,
        warning_percents=[50, 90],
    )


def test_a_plan_is_updated_by_what_is_given(people: People) -> None:
    people.ok("plan", "update", "gold", "--weight", "3", "--tokens-per-day", "none")
    request = people.only(pb.UpdatePlanRequest)
    assert request.plan == Plan(name="plans/gold", weight=3, limits=Limits())
    assert list(request.update_mask.paths) == ["weight", "limits.tokens_per_day"]


def test_plans_are_listed_shown_and_deleted(people: People) -> None:
    plan = Plan(name="plans/gold", display_name="Gold", weight=7, limits=Limits(tokens_per_day=5_000))
    people.answers["ListPlans"] = pb.ListPlansResponse(plans=[plan])
    people.answers["GetPlan"] = pb.GetPlanResponse(plan=plan)
    assert "5,000 tokens per day" in people.ok("plan", "list")
    assert "tokens per day  5,000" in people.ok("plan", "show", "gold")
    assert people.only(pb.GetPlanRequest).name == "plans/gold"
    assert isinstance(people.run("plan", "delete", "gold").exception, CliError)
    people.ok("plan", "delete", "gold", "--yes")
    assert people.only(pb.DeletePlanRequest).name == "plans/gold"


def test_prices_are_money_for_a_million_tokens(people: People) -> None:
    price = Price(
        model="m", input_micros_per_million=150_000, cached_input_micros_per_million=30_000,
        output_micros_per_million=600_000, currency="USD",
    )  # fmt: skip
    people.answers["SetPrice"] = pb.SetPriceResponse(price=price)
    arguments = ("--input", "0.15", "--cached-input", "0.03", "--output", "0.60")
    told = people.ok("price", "set", "m", *arguments)
    sent = people.only(pb.SetPriceRequest).price
    price.currency = ""
    assert sent == price
    assert told.splitlines()[1].split() == ["m", "0.15", "0.03", "0.6", "USD"]


def test_cached_input_costs_what_other_input_does_unless_said_otherwise(people: People) -> None:
    people.ok("price", "set", "*", "--input", "2", "--output", "3")
    assert people.only(pb.SetPriceRequest).price.cached_input_micros_per_million == 2_000_000


def test_prices_are_listed_and_deleted(people: People) -> None:
    assert "no prices" in people.ok("price", "list")
    people.ok("price", "delete", "*")
    assert people.only(pb.DeletePriceRequest).model == "*"


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0.1234567", "1,5", "x", "1234567"])
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(CliError):
        money_micros(text)


def test_money_is_read_to_the_millionth() -> None:
    assert (money_micros("0.000001"), money_micros("0.15"), money_micros("3")) == (1, 150_000, 3_000_000)


@pytest.mark.parametrize(
    ("used", "reserved", "bar"),
    [(0, 0, "·" * 20), (1, 0, "█" + "·" * 19), (50, 50, "█" * 10 + "▒" * 10), (500, 0, "█" * 20)],
)
def test_the_bar_shows_used_and_held(used: int, reserved: int, bar: str) -> None:
    assert limit_bar(LimitState(limit_value=100, used=used, reserved=reserved)) == bar
