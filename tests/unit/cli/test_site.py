"""How a person's choices become the sites' configuration, and what is said when a choice can't be followed."""

import os
import socket
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from redoma_chat.settings import ChatSettings
from redoma_cli.client import Demo, choose_key, read_demo
from redoma_cli.errors import CliError
from redoma_cli.local.demo import write_demo
from redoma_cli.local.envoy import envoy_workers
from redoma_cli.local.home import Home, find_home
from redoma_cli.local.options import (
    SiteChoice,
    Sites,
    choose_sites,
    is_loopback,
    read_choice,
    read_options,
    write_choice,
)
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_cli.local.plan import STOP_ORDER, ProcessSpec, pid_file, read_plan, stop_order, write_plan
from redoma_cli.local.ports import choose_ports, highest_port, port_is_free
from redoma_cli.local.private_site import prepare_private_site
from redoma_cli.local.process import PidFile, ProcessIdentity, current_identity, start_ticks
from redoma_cli.local.public_site import prepare_public_site
from redoma_cli.local.service import program_files
from redoma_cli.local.site import admin_key
from redoma_cli.local.toml import render_toml
from redoma_cli.local.up import check_port, edge_port_wanted, last_words, site_lock, tail, van_port_wanted
from redoma_kit.settings import ServiceSettings, load_settings
from redoma_model.settings import ModelSettings
from redoma_provisioner.settings import ProvisionerSettings
from redoma_tenant.settings import TenantSettings

KEY = "rdm_abcdefgh_" + "s" * 43
EVERY_PROCESS = set(STOP_ORDER)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """What passes for a model until somebody loads it."""
    file = tmp_path / 'My "odd" Modél.gguf'
    file.write_bytes(b"GGUF and no more")
    return file


@pytest.fixture
def environ(model_file: Path, tmp_path: Path) -> dict[str, str]:
    """An environment with which a site can be configured."""
    envoy = tmp_path / "bin" / "envoy"
    envoy.parent.mkdir()
    envoy.write_text("#!/bin/sh\n")
    envoy.chmod(0o755)
    return {"REDOMA_MODEL": str(model_file), "PATH": str(envoy.parent)}


Prepare = Callable[..., dict[str, ProcessSpec]]


def prepare_sites(
    home: Home,
    environ: dict[str, str],
    authority: DevelopmentAuthority,
    site: str = "private",
    sites: Sites = Sites.BOTH,
) -> dict[str, ProcessSpec]:
    """Configures the sites as `redoma up` does once they have joined; stands in for the provisioner's bootstraps."""

    def bootstrap(proxy: str) -> Path:
        file = home.config / f"{proxy}.json"
        file.write_text("{}")
        file.chmod(0o600)
        return file

    options = read_options(environ, home, None, SiteChoice(sites, "public.example:8443"))
    home.private.create()
    specs = prepare_public_site(home, options, environ, authority, KEY, bootstrap)
    if options.weights is not None:
        specs += prepare_private_site(home, options, options.weights, environ, site, bootstrap)
    return {spec.name: spec for spec in specs}


@pytest.fixture
def prepare(home: Home, authority: DevelopmentAuthority, environ: dict[str, str]) -> Prepare:
    """Configures both sites with some more variables set."""

    def prepare(site: str = "private", **more: str) -> dict[str, ProcessSpec]:
        return prepare_sites(home, environ | more, authority, site)

    return prepare


@pytest.mark.parametrize(
    ("file", "settings_type"),
    [
        ("config/chat.toml", ChatSettings),
        ("config/tenant.toml", TenantSettings),
        ("config/provisioner.toml", ProvisionerSettings),
        ("private/config/model.toml", ModelSettings),
        ("private/config/provisioner.toml", ProvisionerSettings),
    ],
)
def test_services_accept_the_settings_written_for_them(
    prepare: Prepare, home: Home, model_file: Path, file: str, settings_type: type[ServiceSettings]
) -> None:
    specs = prepare(REDOMA_MAX_STREAM_S="7.5")
    settings = load_settings(settings_type, home.root / file)
    name = Path(file).stem
    process = "private-provisioner" if file == "private/config/provisioner.toml" else name
    assert settings.max_stream_s == 7.5
    assert settings.listen == specs[process].probe.address
    assert specs[process].probe.server_name == f"{name}.{specs[process].site}.redoma"
    if isinstance(settings, ModelSettings):
        assert settings.file == model_file


def test_private_site_listens_on_no_port_and_reads_its_identity_through_its_membership(
    prepare: Prepare, home: Home
) -> None:
    specs = prepare(site="hospital-a")
    for process in ("model", "private-provisioner"):
        settings = load_settings(
            ModelSettings if process == "model" else ProvisionerSettings,
            home.private.config / f"{process.removeprefix('private-')}.toml",
        )
        assert settings.listen.startswith("unix:")
        assert "/" not in settings.listen
        assert settings.forwarders == ("spiffe://redoma/hospital-a/gateway",)
        assert settings.tls.cert_file.is_relative_to(home.private.membership / "current")
        assert settings.jwks_file.is_relative_to(home.private.membership / "current")
        assert specs[process].directory == str(home.private.run)
        assert specs[process].probe.server_name.endswith(".hospital-a.redoma")
        assert specs[process].probe.identity == str(home.private.membership / "current" / "supervisor")


def test_certificates_that_were_renewed_start_nothing_of_the_private_site_anew(prepare: Prepare, home: Home) -> None:
    first = prepare()
    identity = home.private.membership / "current" / "model"
    identity.mkdir(parents=True)
    (identity / "tls.crt").write_text("another")
    assert prepare() == first


def test_provisioner_gets_what_both_roles_need(prepare: Prepare, home: Home, authority: DevelopmentAuthority) -> None:
    prepare(REDOMA_PORT="18080", REDOMA_VAN_PORT="18443", REDOMA_CORS_ORIGINS="https://chat.example.com")
    public = load_settings(ProvisionerSettings, home.config / "provisioner.toml")
    assert public.role == "public"
    assert public.edge is not None
    assert public.egress is not None
    assert public.join is not None
    assert public.authority is not None
    assert public.edge.listen == "127.0.0.1:18080"
    assert public.edge.origins == ("https://chat.example.com",)
    assert public.edge.egress.server_name == "egress.public.redoma"
    assert public.egress.tunnels == "127.0.0.1:18443"
    assert public.egress.admin_socket == Path("egress-admin.sock")
    assert public.authority.key_file == authority.key
    assert set(public.proxies) == {"edge", "egress"}
    private = load_settings(ProvisionerSettings, home.private.config / "provisioner.toml")
    assert private.role == "private"
    assert private.membership_dir == home.private.membership
    assert {(exposed.name, exposed.target) for exposed in private.exposed} == {
        ("model-0", "unix:model.sock"),
        ("provisioner", "unix:provisioner.sock"),
    }
    assert set(private.proxies) == {"gateway"}


def test_public_site_alone_takes_tunnels_from_everywhere_and_needs_no_model(
    home: Home, authority: DevelopmentAuthority, environ: dict[str, str]
) -> None:
    specs = prepare_sites(home, environ | {"REDOMA_MODEL": "no-such-model"}, authority, sites=Sites.PUBLIC)
    assert set(specs) == {"tenant", "provisioner", "chat", "edge", "egress"}
    settings = load_settings(ProvisionerSettings, home.config / "provisioner.toml")
    assert settings.egress is not None
    assert settings.join is not None
    assert settings.egress.tunnels == "0.0.0.0:8443"
    assert settings.join.address == "public.example:8443"
    assert settings.egress.listen.startswith("127.0.0.1:")


def test_egress_cuts_at_once_and_the_others_let_answers_finish(prepare: Prepare) -> None:
    specs = prepare(REDOMA_MAX_STREAM_S="30")

    def drain(name: str) -> list[str]:
        argv = list(specs[name].argv)
        return argv[argv.index("--drain-time-s") : argv.index("--log-level")]

    assert drain("egress") == ["--drain-time-s", "1", "--drain-strategy", "immediate"]
    assert drain("edge") == drain("gateway") == ["--drain-time-s", "90"]
    assert {specs[name].probe.address for name in ("edge", "egress", "gateway")} == {
        "edge-admin.sock",
        "egress-admin.sock",
        "gateway-admin.sock",
    }


def test_first_administrators_key_lies_in_demo_json_alone(prepare: Prepare, home: Home) -> None:
    prepare()
    write_demo(home, "http://127.0.0.1:1", KEY, [("acme", "a")])
    holders = [file for file in home.root.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    assert holders == [home.demo_file]
    assert {stat.S_IMODE(file.stat().st_mode) for file in home.root.rglob("*") if file.is_file()} == {0o600}
    assert admin_key(Demo("", KEY, {})) == KEY
    assert admin_key(None) != admin_key(None)


def test_plan_is_the_same_each_time_and_follows_each_change(prepare: Prepare, home: Home) -> None:
    first = prepare()
    again = prepare(PATH_INFO="noise", SHELL="noise")
    assert {name: spec.fingerprint for name, spec in again.items()} == {
        name: spec.fingerprint for name, spec in first.items()
    }

    def changed(**more: str) -> set[str]:
        return {name for name, spec in prepare(**more).items() if spec.fingerprint != first[name].fingerprint}

    assert set(first) == EVERY_PROCESS
    assert changed(REDOMA_MODEL_SLOTS="2") == {"model"}
    # The edge and the egress follow their provisioner, and go on.
    assert changed(REDOMA_PORT="9999") == {"provisioner"}
    assert changed(REDOMA_VAN_PORT="9998") == {"provisioner"}
    assert changed(REDOMA_EDGE_REFLECTION="1") == {"provisioner", "chat"}
    assert changed(REDOMA_MAX_STREAM_S="5") == EVERY_PROCESS - {"egress"}
    assert changed(site="hospital-a") == {"model", "private-provisioner"}
    write_plan(home, list(first.values()))
    assert {spec.name: spec for spec in read_plan(home)} == first


def test_changed_program_is_started_anew(prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "server.py"
    program.write_text("old")
    monkeypatch.setattr("redoma_cli.local.service.program_files", lambda packages: [program])
    first = prepare()
    program.write_text("new")
    changed = {name for name, spec in prepare().items() if spec.fingerprint != first[name].fingerprint}
    assert changed == EVERY_PROCESS - {"edge", "egress", "gateway"}


def test_program_files_are_the_packages_own() -> None:
    names = {file.name for file in program_files(("redoma_kit", "redoma"))}
    assert {"server.py", "pipeline.py", "model_pb2.py"} <= names
    assert program_files(("no_such_package_of_redoma",)) == []


def test_services_get_their_own_settings_and_no_credential(prepare: Prepare) -> None:
    specs = prepare(
        REDOMA_MODEL_SLOTS="2",
        REDOMA_CHAT_LOG__LEVEL="debug",
        REDOMA_PROVISIONER_LOG__LEVEL="error",
        REDOMA_PRIVATE_PROVISIONER_LOG__LEVEL="warning",
        REDOMA_API_KEY="secret",
        CUDA_VISIBLE_DEVICES="0",
    )
    assert specs["model"].env["REDOMA_MODEL_SLOTS"] == "2"
    assert "REDOMA_MODEL_SLOTS" not in specs["chat"].env
    assert specs["chat"].env["REDOMA_CHAT_LOG__LEVEL"] == "debug"
    assert specs["provisioner"].env["REDOMA_PROVISIONER_LOG__LEVEL"] == "error"
    assert specs["private-provisioner"].env["REDOMA_PROVISIONER_LOG__LEVEL"] == "warning"
    assert specs["model"].env["CUDA_VISIBLE_DEVICES"] == "0"
    assert not any("REDOMA_API_KEY" in spec.env or "REDOMA_MODEL" in spec.env for spec in specs.values())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("REDOMA_PORT", "eighty", "number from 1 to 65535"),
        ("REDOMA_PORT", "0", "number from 1 to 65535"),
        ("REDOMA_PORT", "65536", "number from 1 to 65535"),
        ("REDOMA_VAN_PORT", "eighty", "REDOMA_VAN_PORT=eighty is not a port"),
        ("REDOMA_VAN_PORT", "8080", "both 8080"),
        ("REDOMA_MAX_STREAM_S", "nan", "Set it to seconds"),
        ("REDOMA_MAX_STREAM_S", "0", "Set it to seconds"),
        ("REDOMA_EDGE_REFLECTION", "maybe", "1 or 0"),
        ("REDOMA_CORS_ORIGINS", "chat.example.com", "https://chat.example.com"),
        ("REDOMA_MODEL", "gpt-4", "smollm2-135m-instruct"),
        ("REDOMA_MODEL", "some-org/some-model", "Download a GGUF file"),
        ("REDOMA_MODEL", "/no/such/file.gguf", "/no/such/file.gguf"),
        ("REDOMA_MODEL", "smollm2-135m-instruct", "missing"),
        ("PATH", "/nowhere", "Envoy is missing"),
    ],
)
def test_wrong_choice_is_one_sentence_and_its_mend(
    environ: dict[str, str], home: Home, name: str, value: str, words: str
) -> None:
    with pytest.raises(CliError) as told:
        read_options(environ | {name: value}, home, None)
    assert words in f"{told.value.message} {told.value.mend}"
    assert told.value.mend
    assert "\n" not in told.value.message


def test_file_that_is_no_model_is_refused(environ: dict[str, str], home: Home, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\x00" * 16)
    with pytest.raises(CliError, match="not a GGUF file"):
        read_options(environ | {"REDOMA_MODEL": str(file)}, home, None)


@pytest.mark.parametrize("variable", ["REDOMA_PORT", "REDOMA_VAN_PORT"])
def test_port_held_by_another_program_is_named_with_a_mend(
    home: Home, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which ports are free is another matter at each moment.
    monkeypatch.setattr("redoma_cli.local.ports.port_is_free", lambda other: other >= port + 3)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        wanted = edge_port_wanted(port) if variable == "REDOMA_PORT" else van_port_wanted(port, "127.0.0.1")
        with pytest.raises(CliError, match=f"Port {port} is in use") as told:
            check_port(home, wanted)
    assert f"export {variable}={port + 3}" in told.value.mend


@pytest.mark.parametrize("process", ["edge", "egress"])
def test_port_of_the_sites_own_envoy_is_not_in_the_way(home: Home, process: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        wanted = edge_port_wanted(port) if process == "edge" else van_port_wanted(port, "127.0.0.1")
        with pytest.raises(CliError):
            check_port(home, wanted)
        PidFile(pid_file(home, process)).write(current_identity(), "")
        check_port(home, wanted)
        # Nor does one that runs excuse a port that another holds.
        parent = ProcessIdentity(os.getppid(), start_ticks(os.getppid()) or 0)
        PidFile(pid_file(home, process)).write(parent, "")
        with pytest.raises(CliError):
            check_port(home, wanted)


def test_ports_are_kept_while_they_can_be(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    taken: set[int] = set()
    mine: set[str] = set()

    def choose() -> dict[str, int]:
        return choose_ports(["a", "b"], file, lambda name: name in mine, lambda port: port not in taken)

    first = choose()
    assert choose() == first
    assert all(1024 < port <= highest_port() for port in first.values())
    taken.add(first["a"])
    moved = choose()
    assert moved["a"] != first["a"]
    assert moved["b"] == first["b"]
    taken.add(moved["a"])
    mine.add("a")
    assert choose() == moved
    file.write_text("no JSON")
    assert set(choose()) == {"a", "b"}


def test_port_with_a_listener_is_not_free() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        assert not port_is_free(holder.getsockname()[1])


def test_no_port_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="No free port"):
        choose_ports(["a"], tmp_path / "ports.json", lambda name: False, lambda port: False)


def test_toml_reads_back_as_it_was_meant() -> None:
    table: dict[str, object] = {
        "file": 'C:\\a "b" \x7f\n é',
        "number": 7.5,
        "on": True,
        "names": ["x", "y"],
        "tls": {"ca_file": "/a b/c"},
        "proxies": {"edge": {"ca_file": "x"}, "egress": {"ca_file": "y"}},
        "edge": {"listen": "z", "chat": {"target": "t"}, "origins": ["o"]},
        "exposed": [{"name": "model-0"}, {"name": "provisioner"}],
    }
    assert tomllib.loads(render_toml(table)) == table


def test_second_up_at_the_same_time_is_refused(home: Home) -> None:
    with site_lock(home), pytest.raises(CliError, match="Another"), site_lock(home):
        pass
    with site_lock(home):
        pass


def test_home_is_the_one_named_or_the_checkouts(tmp_path: Path) -> None:
    assert find_home({"REDOMA_HOME": str(tmp_path)}, Path("/src")).root == tmp_path
    assert find_home({"REDOMA_HOME": ""}, Path("/src")).root == Path("/src/.redoma")
    assert find_home({}, None).root == Path.home() / ".redoma"


def test_key_named_wins_and_a_role_picks_among_the_local_ones() -> None:
    demo = Demo("", "root", {"acme": "a", "globex": "g"})
    assert choose_key("mine", demo, "admin") == "mine"
    assert choose_key(None, demo, "admin") == "root"
    assert choose_key(None, demo, "globex") == "g"
    assert choose_key(None, demo, "") == "a"
    with pytest.raises(CliError, match="No API key"):
        choose_key(None, None, "")


def test_last_words_of_a_log_are_readable(tmp_path: Path) -> None:
    file = tmp_path / "model.log"
    assert tail(file, 3) == []
    file.write_text('one\ntwo\n{"event": "can not load", "error": "no such file", "level": "error"}\n')
    assert tail(file, 2)[0] == "two"
    assert last_words(tail(file, 1)) == "can not load: no such file"
    assert last_words(["plain"]) == "plain"
    assert last_words(["7"]) == "7"
    assert last_words([]) == ""


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"edge": "x", "admin_key": "k", "tenants": []}',
        '{"edge": "http://127.0.0.1:1", "admin_key": null, "tenants": []}',
        '{"edge": "http://127.0.0.1:x", "admin_key": "k", "tenants": []}',
        '{"edge": "http://127.0.0.1:1", "admin_key": "k", "tenants": [{"id": "acme", "api_key": "a\\nb"}]}',
    ],
)
def test_damaged_demo_file_counts_as_none(home: Home, content: str) -> None:
    home.demo_file.write_text(content)
    assert read_demo(home) is None


def test_key_that_can_not_be_sent_is_refused() -> None:
    with pytest.raises(CliError, match="characters that no key has"):
        choose_key("ключ", None, "")


def test_home_that_nothing_can_name_is_refused() -> None:
    for named in ("/a\nb", "/a\udcffb", "~no-such-user-here/x"):
        with pytest.raises(CliError, match=r"REDOMA_HOME|home of a site"):
            find_home({"REDOMA_HOME": named}, None)


def test_database_url_stands_for_a_path_with_any_character(tmp_path: Path, environ: dict[str, str]) -> None:
    odd = Home(tmp_path / "a?b#c%41 é")
    odd.create()
    prepare_sites(odd, environ, DevelopmentAuthority(odd.pki))
    url = tomllib.loads((odd.config / "chat.toml").read_text())["database_url"]
    assert make_url(url).database == str(odd.data / "chat.db")
    url = tomllib.loads((odd.private.config / "provisioner.toml").read_text())["database_url"]
    assert make_url(url).database == str(odd.private.data / "provisioner.db")


def test_port_of_the_edge_is_no_service_s(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    file.write_text('{"chat": 25290, "model": 99999}')
    ports = choose_ports(("chat", "model"), file, lambda name: False, lambda port: True, reserved=(25290,))
    assert ports["chat"] != 25290
    assert 0 < ports["model"] <= 65535


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (4, 2), (64, 2)])
def test_envoys_leave_cores_to_the_model(cores: int, workers: int) -> None:
    assert envoy_workers(cores) == workers


def test_chosen_sites_are_kept_for_the_next_time(home: Home) -> None:
    assert read_choice(home) is None
    private = choose_sites(None, Sites.PRIVATE, "", 8443)
    write_choice(home, private)
    assert choose_sites(read_choice(home), None, "", 8443) == private == SiteChoice(Sites.PRIVATE)
    assert choose_sites(private, Sites.BOTH, "", 8443).sites is Sites.BOTH
    (home.config / "sites.json").write_text("{}")
    assert read_choice(home) is None
    assert choose_sites(None, None, "", 8443).sites is Sites.BOTH


def test_address_in_tokens_is_the_one_given_or_this_machines() -> None:
    def choose(kept: SiteChoice | None, given: str, port: int = 8443) -> str:
        return choose_sites(kept, Sites.PUBLIC, given, port, own_address=lambda: "10.0.0.5").van_address

    assert choose(None, "") == "10.0.0.5:8443"
    assert choose(None, "redoma.example.com:443") == "redoma.example.com:443"
    assert choose(SiteChoice(Sites.PUBLIC, "redoma.example.com:443"), "", 9443) == "redoma.example.com:443"
    assert choose(SiteChoice(Sites.PUBLIC, "10.0.0.5:8443"), "", 9443) == "10.0.0.5:9443"
    for wrong in ("redoma.example.com", "redoma.example.com:0", "redoma.example.com:65536", "a b:1", "http://x:1"):
        with pytest.raises(CliError, match="not an address"):
            choose(None, wrong)
    with pytest.raises(CliError, match="public site alone"):
        choose_sites(None, Sites.BOTH, "x:1", 8443)


@pytest.mark.parametrize(
    ("address", "only_here"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("localhost:1", True), ("[::1]:1", True), ("10.0.0.5:1", False)],
)
def test_loopback_is_known(address: str, only_here: bool) -> None:
    assert is_loopback(address) is only_here


def test_processes_end_callers_first_and_a_private_site_alone_lets_its_model_finish() -> None:
    assert stop_order(STOP_ORDER) == STOP_ORDER
    assert STOP_ORDER.index("egress") < STOP_ORDER.index("gateway") < STOP_ORDER.index("model")
    assert stop_order(("gateway", "model", "private-provisioner")) == ("model", "gateway", "private-provisioner")
