"""What apply writes, when the router restarts for it, and what comes back when it fails."""

import os
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from redoma_provisioner.network.driver import (
    AdmittedSite,
    DesiredConnector,
    DesiredLink,
    DesiredListener,
    DesiredNetwork,
    DriverRefused,
    DriverUnavailable,
    NetworkDriver,
)
from redoma_provisioner.network.drivers.skupper_system.driver import SkupperSystemDriver
from tests.unit.provisioner.skupper_system.system_lab import NAMESPACE, PUBLIC, SystemLab, system_controller

SITE = "hospital-a"
KEY = f"{SITE}.model-0"
HERE = DesiredNetwork(PUBLIC, admitted=(AdmittedSite(SITE),), listeners=(DesiredListener(KEY, SITE),))
THERE = DesiredNetwork(SITE, connectors=(DesiredConnector(KEY, "127.0.0.1:50051"),))


def with_listeners(*names: str) -> DesiredNetwork:
    """Gives a public site that wants these of one private site."""
    return replace(HERE, listeners=tuple(DesiredListener(f"{SITE}.{name}", SITE) for name in names))


async def ports(driver: NetworkDriver, desired: DesiredNetwork) -> dict[str, str]:
    """Gives the address of each listener."""
    return {key: one.address for key, one in (await driver.observe(desired)).listeners.items()}


async def test_files_are_for_their_owner_alone_and_say_whose_they_are(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    await driver.invite(SITE, 60)
    await driver.apply(HERE)
    written = list(lab.input(PUBLIC).iterdir())
    assert {path.name.split("-")[0] for path in written} == {"Site", "RouterAccess", "Listener"}
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        manifest = yaml.safe_load(path.read_text())
        assert manifest["metadata"]["annotations"]["redoma.io/managed-by"] == "redoma"
        assert manifest["metadata"]["namespace"] == NAMESPACE
    assert yaml.safe_load((lab.input(PUBLIC) / "Site-public.yaml").read_text())["spec"] == {}


async def test_a_private_site_is_an_edge(lab: SystemLab) -> None:
    await lab.driver(SITE).apply(THERE)
    assert yaml.safe_load((lab.input(SITE) / f"Site-{SITE}.yaml").read_text())["spec"] == {"edge": True}


async def test_keys_that_skupper_wrote_for_all_are_tightened(lab: SystemLab) -> None:
    public, private = lab.driver(PUBLIC), lab.driver(SITE)
    link = DesiredLink(PUBLIC, resources=await public.invite(SITE, 60))
    await private.apply(replace(THERE, links=(link,)))
    holding = [path for path in lab.root.rglob("*.yaml") if "Secret-" in path.name or path.parent.name == "links"]
    assert len(holding) >= 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in holding} == {0o600}


async def test_an_apply_that_changes_nothing_runs_no_command_and_restarts_nothing(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    await driver.apply(HERE)
    restarts = lab.tree(PUBLIC).restarts()
    lab.commands.clear()
    await driver.apply(HERE)
    assert (lab.tree(PUBLIC).restarts(), lab.commands) == (restarts, [])


async def test_many_changes_cost_one_restart(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    await driver.apply(HERE)
    await driver.apply(with_listeners(*(f"model-{number}" for number in range(8))))
    assert lab.tree(PUBLIC).restarts() == 2


async def test_a_listener_that_goes_breaks_no_stream_of_others(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    await driver.apply(with_listeners("model-0", "model-1"))
    await driver.apply(with_listeners("model-0"))
    assert lab.tree(PUBLIC).restarts() == 1
    assert [path.name for path in lab.input(PUBLIC).glob("Listener-*")] == ["Listener-hospital-a-model-0-72c5449f.yaml"]


async def test_a_connector_that_goes_is_gone_from_the_router(lab: SystemLab) -> None:
    driver = lab.driver(SITE)
    await driver.apply(THERE)
    await driver.apply(replace(THERE, connectors=()))
    assert lab.tree(SITE).runtime("Connector") == []


async def test_what_a_crash_left_untaken_is_taken_up_by_the_next_apply(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    await driver.apply(with_listeners("model-0", "model-1"))
    (snapshot,) = (lab.tree(PUBLIC).root / "internal" / "snapshot").glob("Listener-*model-1*")
    snapshot.unlink()
    await lab.driver(PUBLIC).apply(with_listeners("model-0", "model-1"))
    assert lab.tree(PUBLIC).restarts() == 2


async def test_ports_stay_across_restarts_and_changes(lab: SystemLab) -> None:
    wanted = with_listeners("model-0", "model-1", "model-2")
    driver = lab.driver(PUBLIC)
    await driver.apply(wanted)
    before = await ports(driver, wanted)
    fewer = with_listeners("model-2")
    await lab.driver(PUBLIC).apply(fewer)
    assert await ports(lab.driver(PUBLIC), fewer) == {f"{SITE}.model-2": before[f"{SITE}.model-2"]}


async def test_a_port_is_not_given_again_while_the_router_still_holds_it(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    wanted = with_listeners("model-0", "model-1")
    await driver.apply(wanted)
    held = set((await ports(driver, wanted)).values())
    await driver.apply(with_listeners())
    other = with_listeners("model-8", "model-9")
    await driver.apply(other)
    assert not held & set((await ports(driver, other)).values())


async def test_a_port_of_another_hand_is_passed_over(lab: SystemLab) -> None:
    await lab.put_foreign()
    driver = lab.driver(PUBLIC)
    await driver.apply(HERE)
    (address,) = (await ports(driver, HERE)).values()
    assert int(address.rpartition(":")[2]) > 10_000


async def test_a_site_of_another_hand_is_used_and_left_alone(lab: SystemLab) -> None:
    await lab.put_foreign()
    await lab.driver(PUBLIC).apply(HERE)
    assert [path.name for path in lab.input(PUBLIC).glob("Site-*")] == ["Site-theirs.yaml"]


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "- " * 100_000, "a: [", "", "\0", "just words", "[1, 2]", "x" * 2_000_000]
)
async def test_a_foreign_file_that_is_no_resource_is_left_alone(lab: SystemLab, content: str) -> None:
    driver, path = lab.driver(SITE), lab.input(SITE) / "theirs.yml"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    await driver.apply(THERE)
    assert path.read_text() == content


async def test_a_second_site_is_not_taken_for_ours(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    await driver.apply(HERE)
    (lab.input(PUBLIC) / "Site-other.yaml").write_text(
        f"kind: Site\nmetadata: {{name: other, namespace: {NAMESPACE}}}\n"
    )
    with pytest.raises(DriverRefused, match="a namespace has one site"):
        await driver.apply(with_listeners("model-1"))
    assert (lab.input(PUBLIC) / "Site-public.yaml").exists()
    assert lab.tree(PUBLIC).is_up()


async def test_a_file_of_another_hand_with_our_name_is_refused_by_path(lab: SystemLab) -> None:
    path = lab.input(SITE) / "Connector-hospital-a-model-0-72c5449f.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("kind: Connector\nmetadata: {name: hospital-a-model-0-72c5449f}\n")
    with pytest.raises(DriverRefused, match=r"is not Redoma's\. Take it out"):
        await lab.driver(SITE).apply(THERE)
    assert path.read_text().startswith("kind: Connector\nmetadata: {name")


@pytest.mark.parametrize("hostile", ["../../up", "UPPER", "a b", "", "-a", "x" * 300, "a\nb", "é"])
async def test_hostile_names_reach_no_path(lab: SystemLab, hostile: str) -> None:
    driver = lab.driver(SITE)
    with suppress(DriverRefused):
        await driver.apply(DesiredNetwork(hostile, connectors=(DesiredConnector(hostile, "127.0.0.1:9"),)))
    allowed = lab.input(SITE)
    for path in lab.root.rglob("*.yaml"):
        assert path.parent == allowed or "internal" in path.parts or "runtime" in path.parts, path


@pytest.mark.parametrize("target", ["127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1", "not..a..host:80", ":80", "h:8x"])
async def test_a_bad_target_is_refused_and_the_others_are_made(lab: SystemLab, target: str) -> None:
    good = f"{SITE}.model-1"
    wanted = replace(THERE, connectors=(DesiredConnector(KEY, target), DesiredConnector(good, "127.0.0.1:50052")))
    driver = lab.driver(SITE)
    with pytest.raises(DriverRefused, match="is not valid: give"):
        await driver.apply(wanted)
    seen = (await driver.observe(wanted)).connectors
    assert [one.conditions[0].holds for one in (seen[KEY], seen[good])] == [False, True]


async def test_a_unix_socket_is_refused_with_what_to_give_instead(lab: SystemLab) -> None:
    with pytest.raises(DriverRefused, match=r"unix:, which Skupper's router can't dial .* give its HOST:PORT"):
        await lab.driver(SITE).apply(replace(THERE, connectors=(DesiredConnector(KEY, "unix:model.sock"),)))


async def test_a_refused_reload_puts_the_former_files_back(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    await driver.apply(HERE)
    before = await lab.inventory()
    contents = {path: path.read_bytes() for path in lab.input(PUBLIC).iterdir()}
    await lab.refuse("no more of it")
    with pytest.raises(DriverRefused, match="no more of it"):
        await driver.apply(with_listeners("model-1", "model-2"))
    assert set(await lab.inventory()) == set(before)
    assert {path: path.read_bytes() for path in lab.input(PUBLIC).iterdir()} == contents


async def test_a_router_that_does_not_come_back_is_restarted_on_the_former_files(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    await driver.apply(HERE)
    lab.control.put(dies=[lab.tree(PUBLIC).key])
    with pytest.raises(DriverUnavailable, match="did not come up within 1 s"):
        await driver.apply(with_listeners("model-0", "model-1"))
    assert lab.tree(PUBLIC).is_up()
    assert len(lab.tree(PUBLIC).runtime("Listener")) == 1


async def test_a_start_that_failed_half_way_is_repaired_by_a_reload(lab: SystemLab) -> None:
    lab.control.put(replay={"system start": "err_no_systemd_system_start"})
    driver = lab.driver(PUBLIC)
    (lab.tree(PUBLIC).root / "runtime" / "resources").mkdir(parents=True)
    await driver.apply(HERE)
    assert "system start" not in lab.commands
    assert lab.tree(PUBLIC).is_up()


async def test_a_controller_that_reloads_by_itself_is_left_to_it(tmp_path: Path) -> None:
    lab = SystemLab(tmp_path)
    driver = lab.driver(PUBLIC, pick_up_s=20.0)
    async with system_controller(lab, PUBLIC, automatic=True):
        await driver.apply(HERE)
        await driver.apply(with_listeners("model-0", "model-1"))
        assert not {"system start", "system reload"} & set(lab.commands)
        assert len(lab.tree(PUBLIC).runtime("Listener")) == 2


async def test_an_invitation_that_nobody_takes_is_taken_back(lab: SystemLab) -> None:
    driver = lab.driver(PUBLIC)
    await driver.invite(SITE, 60)
    await driver.apply(DesiredNetwork(PUBLIC))
    assert list(lab.input(PUBLIC).glob("RouterAccess-*"))
    lab.clock_s += 61
    await driver.apply(DesiredNetwork(PUBLIC))
    assert not list(lab.input(PUBLIC).glob("RouterAccess-*"))
    assert lab.tree(PUBLIC).runtime("RouterAccess") == []


async def test_a_key_of_a_revoked_site_is_worth_nothing_to_the_site_invited_next(lab: SystemLab) -> None:
    public, private = lab.driver(PUBLIC), lab.driver(SITE)
    old = DesiredLink(PUBLIC, resources=await public.invite(SITE, 60))
    await public.apply(HERE)
    await private.apply(replace(THERE, links=(old,)))
    assert (await private.observe(replace(THERE, links=(old,)))).links[PUBLIC].tunnels == 1
    await public.apply(DesiredNetwork(PUBLIC))
    await public.invite(SITE, 60)
    await public.apply(HERE)
    (operational,) = [
        one
        for one in (await private.observe(replace(THERE, links=(old,)))).links[PUBLIC].conditions
        if one.type == "Operational"
    ]
    assert (operational.holds, operational.reason) == (False, "EndpointNotTrusted")


async def test_the_link_file_says_that_it_holds_a_key(lab: SystemLab) -> None:
    assert (await lab.driver(PUBLIC).invite(SITE, 60)).startswith("# This holds a private key")


async def test_a_private_site_invites_nobody(lab: SystemLab) -> None:
    with pytest.raises(DriverRefused, match="invite from the public one"):
        await lab.driver(SITE).invite("hospital-b", 60)


async def test_no_half_written_file_is_left_by_a_full_disk(lab: SystemLab, monkeypatch: pytest.MonkeyPatch) -> None:
    driver: SkupperSystemDriver = lab.driver(PUBLIC)
    await driver.apply(HERE)
    before = sorted(lab.input(PUBLIC).iterdir())

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DriverUnavailable, match="the disk is not full"):
        await driver.apply(with_listeners("model-0", "model-1"))
    assert sorted(lab.input(PUBLIC).iterdir()) == before
