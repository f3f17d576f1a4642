"""`redoma up`: both sites on this machine, or one of them with the other elsewhere."""

import json
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from redoma_cli.client import read_demo
from redoma_cli.commands.options import DriverOption, LinkFileOption, VanAddressOption
from redoma_cli.commands.up_progress import UpProgress
from redoma_cli.context import CommandContext, make_context
from redoma_cli.errors import CliError
from redoma_cli.join_token import token_address
from redoma_cli.local.demo import ensure_demo
from redoma_cli.local.driver import Driver, choose_driver
from redoma_cli.local.joining import SiteRaiser
from redoma_cli.local.membership import read_state
from redoma_cli.local.options import (
    DEFAULT_VAN_PORT,
    SiteOptions,
    Sites,
    check_disk,
    choose_sites,
    is_loopback,
    port_from,
    read_choice,
    read_options,
    write_choice,
)
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.site import LocalSites, admin_key
from redoma_cli.local.up import SiteStarter, check_port, edge_port_wanted, site_lock, van_port_wanted

SiteOption = Annotated[
    Sites | None,
    typer.Option("--site", help="Which sites this machine runs; both, or what it ran before, if left out."),
]
JoinOption = Annotated[
    str,
    typer.Option("--join", metavar="TOKEN", help="With --site private: the token to join with; - reads it from stdin."),
]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person says now; what is left out is as it was before.

    Attributes:
        site: Which sites run here.
        token: What the private one joins with; empty for nothing.
        van_address: Where private sites reach this machine; empty for nothing.
        driver: What carries the links.
        link_file: What a Skupper driver links by instead of what comes with the join.
    """

    site: Sites | None = None
    token: str = ""
    van_address: str = ""
    driver: Driver | None = None
    link_file: Path | None = None


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "up",
        epilog="Examples:  redoma up  ·  REDOMA_PORT=9000 redoma up  ·  redoma up --site public --van-address"
        " redoma.example.com:8443  ·  redoma up --site private --join rdmj_…",
    )(up)


def up(
    site: SiteOption = None,
    join: JoinOption = "",
    van_address: VanAddressOption = "",
    driver: DriverOption = None,
    link_file: LinkFileOption = None,
) -> None:
    """Start both sites on this machine, joined, or adopt what runs, and print how to call them.

    With --site one of them, the other being on another machine.

    Environment: REDOMA_HOME (state), REDOMA_PORT (the edge, 8080), REDOMA_VAN_PORT (joins and tunnels, 8443),
    REDOMA_MODEL (catalogue name or GGUF path), REDOMA_MAX_STREAM_S (longest stream, 600), REDOMA_CORS_ORIGINS,
    REDOMA_EDGE_REFLECTION; with a Skupper driver REDOMA_SKUPPER_NAMESPACE (redoma), REDOMA_SKUPPER_PLATFORM (podman),
    REDOMA_SKUPPER_DATA_HOME, and in a cluster REDOMA_SKUPPER_KUBECONFIG, REDOMA_SKUPPER_ACCESS_TYPE,
    REDOMA_SKUPPER_OWNER.
    """
    context = make_context()
    wanted = Wanted(site, read_token(join), van_address, driver, link_file)
    check_link_file(context, link_file)
    try:
        context.home.create()
    except OSError as error:
        mend = "Set REDOMA_HOME to a directory of your own on a disk with space."
        raise CliError(f"{context.home.root} can't be used: {error.strerror}.", mend) from error
    with site_lock(context.home):
        bring_up(context, wanted)


def read_token(text: str) -> str:
    """Gives the join token that was typed, or with `-` the one on standard input, which no list of processes shows.

    Raises:
        CliError: Nothing is there.
    """
    if text != "-":
        return text.strip()
    token = sys.stdin.readline().strip()
    if not token:
        raise CliError("No token came on standard input.", "Paste one, or pipe it: --join - <token.txt")
    return token


def check_link_file(context: CommandContext, link_file: Path | None) -> None:
    """Warns of the key in a link file.

    Raises:
        CliError: There is no such file.
    """
    if link_file is None:
        return
    if not link_file.is_file():
        raise CliError(f"{link_file} is no file.", "Make it on the public site: skupper link generate")
    context.err.print(
        f"[yellow]{escape(str(link_file))} holds a private key: whoever reads it can link.[/] "
        "Delete it once the site is linked."
    )


def bring_up(context: CommandContext, wanted: Wanted) -> None:
    """Does it, with the home held against others.

    Raises:
        CliError: Something does not come up.
        OSError: A file can't be written or read.
    """
    started = time.monotonic()
    options = _options(context, wanted)
    check_disk(context.home)
    sites = options.choice.sites
    # Kept first: what mends the rest is to do the same again, and then the choice needn't be made again.
    write_choice(context.home, options.choice)
    if sites.has_public:
        check_port(context.home, edge_port_wanted(options.port))
        check_port(context.home, van_port_wanted(options.van_port, options.van_host))
    authority, key = DevelopmentAuthority(context.home.pki), admin_key(read_demo(context.home))
    local = LocalSites(context.home, options, context.environ, authority, key)
    starter = SiteStarter(context.home, options.weights.path if options.weights else None)

    def settle() -> list[str]:
        return ensure_demo(context.home, local.edge, key)

    try:
        with UpProgress(context) as progress:
            raiser = SiteRaiser(local, starter, progress, settle)
            if sites is Sites.BOTH:
                ran_already = raiser.raise_both()
            else:
                public = sites is Sites.PUBLIC
                ran_already = raiser.raise_public() if public else raiser.raise_private(wanted.token, wanted.link_file)
    except KeyboardInterrupt:
        context.err.print("Interrupted; what was started runs on. Go on: redoma up    Stop it: redoma down")
        raise
    for tenant in settle() if sites.has_public else ():
        context.err.print(f"Tenant {tenant} is disabled; enable it with: redoma tenant enable {tenant}")
    took = "it ran already" if ran_already else f"after {time.monotonic() - started:.1f} s"
    _tell(context, local, took)


def _options(context: CommandContext, wanted: Wanted) -> SiteOptions:
    van_port = port_from("REDOMA_VAN_PORT", context.environ.get("REDOMA_VAN_PORT", ""), DEFAULT_VAN_PORT)
    kept = read_choice(context.home)
    driver = choose_driver(kept.driver if kept else None, wanted.driver, context.environ)
    choice = choose_sites(kept, wanted.site, wanted.van_address, van_port, driver=driver)
    if (wanted.token or wanted.link_file) and choice.sites is not Sites.PRIVATE:
        raise CliError(
            "--join is for a machine that runs the private site alone; with both sites here nothing needs a token.",
            "Say so: redoma up --site private --join TOKEN",
        )
    if wanted.token:
        token_address(wanted.token)
    return read_options(context.environ, context.home, context.checkout, choice)


def _tell(context: CommandContext, local: LocalSites, took: str) -> None:
    sites = local.options.choice.sites
    if sites is Sites.PRIVATE:
        state = read_state(context.home.private.membership)
        context.out.print(f"[green]Site {escape(state.site)} runs[/], linked to {escape(state.link_address)} ({took})")
        context.out.print("\nSee it:   redoma status\nStop it:  redoma down")
        return
    what = "Redoma runs" if sites is Sites.BOTH else "The public site runs"
    context.out.print(f"[green]{what}[/] at [bold]{local.edge}[/] ({took})")
    if sites is Sites.PUBLIC:
        _tell_where_to_join(context, local.options.van_address)
    print_how_to_call(context)


def _tell_where_to_join(context: CommandContext, address: str) -> None:
    context.out.print(f"Private sites join at [bold]{escape(address)}[/]; let one in: redoma van grant --site NAME")
    if is_loopback(address):
        context.err.print(
            "[yellow]This machine has no address that others could dial.[/] Name one: "
            "redoma up --site public --van-address HOST:PORT"
        )


def print_how_to_call(context: CommandContext) -> None:
    """Prints the demo tenants' keys and a line to paste."""
    demo = read_demo(context.home)
    if demo is None:
        return
    context.out.print()
    for tenant, key in demo.api_keys.items():
        context.out.print(f"  {tenant:<8} {escape(key)}")
    first = next(iter(demo.api_keys.values()))
    body = json.dumps({"messages": [{"role": "user", "content": "Why is the sky blue?"}], "stream": True})
    words = ["curl", "-sN", f"{demo.edge}/v1/chat/completions", "-H", f"Authorization: Bearer {first}"]
    words += ["-H", "Content-Type: application/json", "-d", body]
    context.out.print("\nTry it:\n")
    # Plain, so that no terminal width or colour gets into what is pasted.
    print(f"  {shlex.join(words)}", flush=True)
    program = "redoma" if shutil.which("redoma") else _program()
    context.out.print(f"\nTalk to it:  {program} chat\nSee it:      {program} status\nStop it:     {program} down")


def _program() -> str:
    program = Path(sys.executable).with_name("redoma")
    try:
        return shlex.quote(str(program.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(program))
