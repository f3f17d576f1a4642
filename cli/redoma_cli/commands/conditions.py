"""Lays out what is said of sites, links, listeners and connectors."""

from collections.abc import Iterable
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from redoma.provisioner.v1.condition_pb2 import Condition
from redoma.provisioner.v1.network_pb2 import WatchNetworkResponse
from redoma.provisioner.v1.site_pb2 import Connector, Site
from redoma_cli.commands.drawing import link_detail
from redoma_cli.commands.durations import short_duration
from redoma_cli.commands.output import list_table
from redoma_cli.network import LinkHealth, health_of, links_of, moment, private_sites, status_word

COLUMNS = ("what", "condition", "holds", "for", "reason", "message")
STATUS_COLOURS = {Condition.STATUS_TRUE: "green", Condition.STATUS_FALSE: "red"}


def headline(health: LinkHealth, now: datetime) -> str:
    """Gives a site and its link in a line."""
    colour = "green" if health.linked else "red"
    detail = link_detail(health, now)
    return f"[bold]{escape(health.site)}[/]  [{colour}]{health.word}[/]  [dim]{escape(detail)}[/]".rstrip()


def site_table(view: WatchNetworkResponse, site: Site, now: datetime) -> Table:
    """Explains a site: its own conditions, its links, and what it exposes with the listener of each."""
    table = list_table(COLUMNS, right=("for",), whole=COLUMNS[:5])
    _add(table, "site", site.conditions, now)
    for link in links_of(view, site):
        tunnels = f" ({link.tunnels} tunnels)" if link.tunnels else ""
        _add(table, f"link {_last(link.name)}{tunnels}", link.conditions, now)
    for connector in view.connectors:
        if connector.name.startswith(f"{site.name}/"):
            alone = f" for {_last(connector.tenant)} alone" if connector.tenant else ""
            _add(table, f"connector {_last(connector.name)}{alone}", connector.conditions, now)
    for listener in view.listeners:
        if listener.site == site.name:
            address = f" at {listener.address}" if listener.address else ""
            _add(table, f"listener {listener.routing_key}{address}", listener.conditions, now)
    return table


def sites_table(view: WatchNetworkResponse, now: datetime) -> Table:
    """Lists the private sites, a row each."""
    columns = (
        "site",
        "name",
        "state",
        "link",
        "driver",
        "priority",
        "replicas",
        "joined",
        "seen",
        "expires",
    )
    table = list_table(columns, right=("priority", "replicas"), whole=("site",))
    for site in private_sites(view):
        health = health_of(site, links_of(view, site))
        own = [connector for connector in view.connectors if connector.name.startswith(f"{site.name}/")]
        replicas = sum(connector.service == Connector.SERVICE_MODEL for connector in own)
        seen = moment(site.last_seen_time)
        expiry = moment(site.certificate_expire_time)
        joined = moment(site.join_time)
        table.add_row(
            escape(health.site),
            escape(site.display_name),
            Site.State.Name(site.state).removeprefix("STATE_").lower(),
            f"[{'green' if health.linked else 'red'}]{health.word}[/]",
            health.driver,
            str(site.priority),
            str(replicas),
            f"{joined.astimezone():%Y-%m-%d %H:%M}" if joined else "",
            f"{short_duration((now - seen).total_seconds())} ago" if seen else "",
            f"{expiry.astimezone():%Y-%m-%d}" if expiry else "",
        )
    return table


def _add(table: Table, what: str, conditions: Iterable[Condition], now: datetime) -> None:
    for number, condition in enumerate(conditions):
        since = moment(condition.last_transition_time)
        table.add_row(
            escape(what) if number == 0 else "",
            escape(condition.type),
            f"[{STATUS_COLOURS.get(condition.status, 'yellow')}]{status_word(condition)}[/]",
            short_duration((now - since).total_seconds()) if since else "",
            escape(condition.reason),
            escape(condition.message),
        )


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]
