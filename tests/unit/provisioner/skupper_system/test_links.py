"""Links: what makes one, redeeming it once, and keeping what can't be had twice."""

import base64
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from redoma_provisioner.network.driver import DesiredLink, DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper.link_resources import AccessToken, LinkCredentials, parse
from tests.fakes.skupper_cli import recorded
from tests.unit.provisioner.skupper_system.system_lab import PUBLIC, SystemLab
from tests.unit.provisioner.skupper_system.test_apply import HERE, SITE, THERE

PEM = base64.b64encode(b"-----BEGIN CERTIFICATE-----\n").decode()
CODE = "aVeryRandomCode"
TOKEN = f"""apiVersion: skupper.io/v2alpha1
kind: AccessToken
metadata: {{name: grant-1}}
spec: {{url: "https://192.0.2.1:9090/x", code: {CODE}, ca: "-----BEGIN CERTIFICATE-----"}}
"""


def link_yaml(**replaced: str) -> str:
    """Gives what the real `skupper link generate` printed, with PEM where the recording has none."""
    text = str(recorded("link_secret_skeleton.yaml")["file"]).replace("…", PEM)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    return text


def test_what_the_real_cli_generates_is_read() -> None:
    found = parse(link_yaml())
    assert isinstance(found, LinkCredentials)
    assert [(one.role, one.host, one.port) for one in found.endpoints] == [
        ("inter-router", "10.99.0.1", 55671),
        ("edge", "10.99.0.1", 45671),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "just words",
        "[1, 2]",
        "a: &a [*a]",
        "[" * 30_000,
        "{a: " * 8_000,
        "- " * 16_000,
        TOKEN + "---\n" + TOKEN,
        TOKEN.replace("https://", "http://"),
        TOKEN.replace("-----BEGIN CERTIFICATE-----", ""),
        TOKEN.replace("grant-1", "../../up"),
        TOKEN.replace(CODE, '"a\\nb"'),
        link_yaml().replace("45671", "0"),
        link_yaml().replace("45671", "70000"),
        link_yaml().replace("host: 10.99.0.1", "host: a..b"),
        link_yaml().replace("name: edge", "name: normal"),
        link_yaml().replace("tls.key", "other.key"),
        link_yaml().replace(PEM, "!!!"),
        link_yaml().replace("tlsCredentials: link-public-access", "tlsCredentials: other"),
        "x" * 70_000,
    ],
)
def test_what_is_no_link_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(DriverRefused) as refused:
        parse(text)
    assert str(refused.value).endswith(".")
    assert CODE not in str(refused.value)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except DriverRefused:
        return


def test_credentials_show_in_no_representation() -> None:
    token, link = parse(TOKEN), parse(link_yaml())
    assert isinstance(token, AccessToken)
    assert CODE not in repr(token)
    assert PEM not in repr(link)
    assert CODE not in repr(DesiredLink("x", resources=TOKEN))


async def test_a_token_is_redeemed_once_and_lies_nowhere(lab: SystemLab) -> None:
    lab.redeemer.links[CODE] = await lab.driver(PUBLIC).invite(SITE, 60)
    await lab.driver(PUBLIC).apply(HERE)
    wanted = replace(THERE, links=(DesiredLink(PUBLIC, resources=TOKEN),))
    for _ in range(3):
        await lab.driver(SITE).apply(wanted)
    assert lab.redeemer.asked == [SITE]
    assert not [path for path in (lab.root / SITE).rglob("*") if path.is_file() and CODE in path.read_text()]
    seen = await lab.driver(SITE).observe(wanted)
    assert [one.holds for one in seen.links[PUBLIC].conditions] == [True, True]


async def test_redeemed_credentials_survive_an_apply_that_fails(lab: SystemLab) -> None:
    lab.redeemer.links[CODE] = await lab.driver(PUBLIC).invite(SITE, 60)
    wanted = replace(THERE, links=(DesiredLink(PUBLIC, resources=TOKEN),))
    lab.control.put(replay={"system start": "err_no_systemd_system_start"})
    with pytest.raises(DriverUnavailable, match="systemctl --user works"):
        await lab.driver(SITE).apply(wanted)
    assert not list(lab.input(SITE).glob("Link-*"))
    await lab.bring_back()
    await lab.driver(SITE).apply(wanted)
    assert lab.redeemer.asked == [SITE]
    assert sorted(path.name for path in lab.input(SITE).iterdir() if path.name.startswith(".")) == []
    assert len(lab.tree(SITE).runtime("Link")) == 1


async def test_a_used_token_leaves_the_connectors_made(lab: SystemLab) -> None:
    with pytest.raises(DriverRefused, match="used up or has expired"):
        await lab.driver(SITE).apply(replace(THERE, links=(DesiredLink(PUBLIC, resources=TOKEN),)))
    assert len(lab.tree(SITE).runtime("Connector")) == 1


async def test_a_link_stays_when_its_resources_are_no_longer_told(lab: SystemLab) -> None:
    link = DesiredLink(PUBLIC, resources=await lab.driver(PUBLIC).invite(SITE, 60))
    await lab.driver(SITE).apply(replace(THERE, links=(link,)))
    restarts = lab.tree(SITE).restarts()
    await lab.driver(SITE).apply(replace(THERE, links=(DesiredLink(PUBLIC),)))
    assert lab.tree(SITE).restarts() == restarts
    assert len(list(lab.input(SITE).glob("Link-*"))) == 1


async def test_a_link_of_nothing_says_how_to_get_something(lab: SystemLab) -> None:
    with pytest.raises(DriverRefused, match="redoma van grant"):
        await lab.driver(SITE).apply(replace(THERE, links=(DesiredLink(PUBLIC),)))


async def test_a_new_token_makes_the_link_anew(lab: SystemLab) -> None:
    public, private = lab.driver(PUBLIC), lab.driver(SITE)
    first = DesiredLink(PUBLIC, resources=await public.invite(SITE, 60))
    await private.apply(replace(THERE, links=(first,)))
    before = yaml.safe_load((lab.input(SITE) / "Secret-public.yaml").read_text())["data"]
    lab.clock_s += 61
    await public.apply(replace(HERE, admitted=()))
    second = DesiredLink(PUBLIC, resources=await public.invite(SITE, 60))
    await private.apply(replace(THERE, links=(second,)))
    assert yaml.safe_load((lab.input(SITE) / "Secret-public.yaml").read_text())["data"] != before
    assert (await private.observe(replace(THERE, links=(second,)))).links[PUBLIC].tunnels == 1
