"""`redoma price`: what tokens of a model cost."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from redoma.tenant.v1 import quota_pb2 as pb
from redoma_cli.client import ADMIN, CALL_TIMEOUT_S
from redoma_cli.commands.money import money_micros, money_text
from redoma_cli.commands.options import EdgeOption, JsonOption, KeyOption
from redoma_cli.commands.output import list_table, print_json
from redoma_cli.context import make_context

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="The model's id; '*' is every model without a price of its own.")
]


def build() -> typer.Typer:
    """Gives the group of commands."""
    group = typer.Typer(
        help="Administer prices, which budgets are counted by; needs the admin key.",
        epilog="Example:  redoma price list",
        no_args_is_help=True,
        rich_markup_mode="rich",
    )
    group.command("set", epilog="Example:  redoma price set smollm2 --input 0.15 --cached-input 0.03 --output 0.60")(
        change
    )
    group.command("list", epilog="Example:  redoma price list --json")(list_all)
    group.command("delete", epilog="Example:  redoma price delete smollm2")(delete)
    return group


def change(
    model: ModelArgument,
    input_price: Annotated[str, typer.Option("--input", metavar="MONEY", help="For a million input tokens.")],
    output_price: Annotated[str, typer.Option("--output", metavar="MONEY", help="For a million output tokens.")],
    cached_price: Annotated[
        str | None,
        typer.Option("--cached-input", metavar="MONEY", help="For a million cached input tokens; else as other input."),
    ] = None,
    edge: EdgeOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set what tokens of a model cost, for calls that begin from now on."""
    context = make_context()
    price = pb.Price(
        model=model,
        input_micros_per_million=money_micros(input_price),
        cached_input_micros_per_million=money_micros(input_price if cached_price is None else cached_price),
        output_micros_per_million=money_micros(output_price),
    )
    with context.client(edge, key, ADMIN) as client, client.telling():
        price = client.quotas.SetPrice(pb.SetPriceRequest(price=price), timeout=CALL_TIMEOUT_S).price
    if as_json:
        print_json(price)
    else:
        context.out.print(_table([price]))


def list_all(edge: EdgeOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the prices."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        prices = list(client.quotas.ListPrices(pb.ListPricesRequest(), timeout=CALL_TIMEOUT_S).prices)
    if as_json:
        print_json(prices)
    elif prices:
        context.out.print(_table(prices))
    else:
        context.out.print("There are no prices, so nothing costs anything; `redoma price set` sets some.")


def delete(model: ModelArgument, edge: EdgeOption = None, key: KeyOption = None) -> None:
    """Delete a price; the model's tokens then cost what '*' says, or nothing."""
    context = make_context()
    with context.client(edge, key, ADMIN) as client, client.telling():
        client.quotas.DeletePrice(pb.DeletePriceRequest(model=model), timeout=CALL_TIMEOUT_S)
    context.out.print(f"Deleted the price of {escape(model)}.")


def _table(prices: list[pb.Price]) -> Table:
    numbers = ("input", "cached input", "output")
    table = list_table(("model", *numbers, "for a million"), right=numbers)
    for price in prices:
        amounts = (
            price.input_micros_per_million,
            price.cached_input_micros_per_million,
            price.output_micros_per_million,
        )
        table.add_row(escape(price.model), *map(money_text, amounts), price.currency)
    return table
