"""Names, ports and the files they lie in, for any input."""

import asyncio
import fcntl
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_provisioner.network.driver import DriverRefused
from redoma_provisioner.network.drivers.skupper.name import checked_label, checked_port, object_name, split_address
from redoma_provisioner.network.drivers.skupper_system.controller import controller_runs
from redoma_provisioner.network.drivers.skupper_system.place import find_place
from redoma_provisioner.network.drivers.skupper_system.ports import Ports, can_be_bound
from redoma_provisioner.network.drivers.skupper_system.watch import Watch
from redoma_provisioner.network.drivers.skupper_system.wiring import find_platform


@given(st.text(max_size=200))
def test_every_key_has_a_name_that_skupper_takes(key: str) -> None:
    name = object_name(key)
    assert checked_label(name, "x") == name


@given(st.sets(st.from_regex(r"[a-z0-9.-]{1,80}", fullmatch=True), min_size=2, max_size=20))
def test_two_keys_never_share_a_name(keys: set[str]) -> None:
    assert len({object_name(key) for key in keys}) == len(keys)


@given(st.integers() | st.text(max_size=8) | st.booleans() | st.none())
def test_a_port_is_one_or_refused(value: object) -> None:
    try:
        assert 1 <= checked_port(value, "x") <= 65_535
    except DriverRefused as refused:
        assert "port from 1 to 65535" in str(refused)  # noqa: PT017


@pytest.mark.parametrize(
    ("address", "host"), [("10.0.0.1:80", "10.0.0.1"), ("[::1]:80", "::1"), ("a.example:80", "a.example")]
)
def test_addresses_are_taken_apart(address: str, host: str) -> None:
    assert split_address(address, "x") == (host, 80)


@given(st.sets(st.integers(100, 130)), st.sets(st.integers(100, 130)))
def test_no_port_is_given_twice_or_that_anybody_holds(held: set[int], busy: set[int]) -> None:
    ports = Ports(100, held, lambda port: port not in busy)
    given_out = [ports.take() for _ in range(20)]
    assert len(set(given_out)) == 20
    assert not set(given_out) & (held | busy)


def test_when_ports_run_out_it_says_so() -> None:
    ports = Ports(65_535, [], lambda port: True)
    ports.take()
    with pytest.raises(DriverRefused, match=r"driver\.first_port"):
        ports.take()


def test_a_port_that_a_process_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not can_be_bound("127.0.0.1", port)
    assert can_be_bound("127.0.0.1", port)


def test_a_controller_runs_while_it_holds_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "controller.lock"
    assert controller_runs(lock) is False
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert controller_runs(lock) is True
    assert controller_runs(lock) is False
    assert controller_runs(lock, tmp_path / "nowhere") is None


def test_the_data_home_is_where_skupper_looks(tmp_path: Path) -> None:
    assert find_place(None, "a", {"HOME": "/h"}, 1000).data_home == Path("/h/.local/share/skupper")
    assert find_place(None, "a", {"HOME": "/h", "XDG_DATA_HOME": "/x"}, 1000).data_home == Path("/x/skupper")
    assert find_place(None, "a", {"XDG_DATA_HOME": "/x"}, 0).data_home == Path("/var/lib/skupper")
    assert find_place(tmp_path / "skupper", "a", {}, 0).input == tmp_path / "skupper/namespaces/a/input/resources"
    with pytest.raises(DriverRefused, match="does not end in /skupper"):
        find_place(tmp_path, "a", {}, 0)
    with pytest.raises(DriverRefused, match="The namespace"):
        find_place(None, "../up", {}, 0)


def test_the_platform_is_never_left_to_skupper(tmp_path: Path) -> None:
    place = find_place(tmp_path / "skupper", "a", {}, 0)
    with pytest.raises(DriverRefused, match=r"Set driver\.platform"):
        find_platform("", place, {})
    assert find_platform("", place, {"SKUPPER_PLATFORM": "docker"}) == "docker"
    place.platform_file.parent.mkdir(parents=True)
    place.platform_file.write_text("platform: linux\n")
    assert find_platform("", place, {"SKUPPER_PLATFORM": "docker"}) == "linux"
    assert find_platform("podman", place, {}) == "podman"


async def test_a_written_status_is_noticed(tmp_path: Path) -> None:
    place = find_place(tmp_path / "skupper", "a", {}, 0)
    changes = Watch(place, poll_s=0.01).changes()
    place.runtime.mkdir(parents=True)
    waiting = asyncio.ensure_future(anext(changes))
    for number in range(1_000):
        (place.runtime / f"Site-{number}.yaml").write_text("x")
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        if done:
            break
    assert waiting.done()
    await changes.aclose()
