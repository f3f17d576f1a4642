"""What a private site says of itself, and how it knows that it is linked."""

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.trust.keeper import KeptTrust
from redoma_provisioner.trust.membership import Membership, MembershipState
from redoma_provisioner.trust.standing_file import JoinError, JoinStep, Phase, SiteStanding, StandingFile
from tests.fakes.trust_parties import MovedClock

TIME = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEPT = KeptTrust("hospital-a", 3, TIME, DriverKind.EMBEDDED, "join.example:8443")
FIRST = Membership(KEPT)
SECOND = Membership(replace(KEPT, sequence=4))


class _Changes:
    count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_it_says_how_it_is_at_once_at_each_change_and_now_and_then() -> None:
    state = MembershipState(FIRST, MovedClock(), _Changes(), repeat_interval_s=0.01)
    async with asyncio.timeout(30), aclosing(state.watch()) as said:
        assert await anext(said) == FIRST
        assert await anext(said) == FIRST
        state.set(SECOND)
        while await anext(said) != SECOND:
            continue


async def test_a_change_while_the_listener_is_busy_is_not_missed() -> None:
    state = MembershipState(FIRST, MovedClock(), _Changes())
    async with asyncio.timeout(30), aclosing(state.watch()) as said:
        assert await anext(said) == FIRST
        state.set(replace(SECOND, kept=replace(KEPT, sequence=9)))
        state.set(SECOND)
        assert await anext(said) == SECOND


async def test_it_is_linked_while_anybody_listens() -> None:
    clock, changes = MovedClock(), _Changes()
    state = MembershipState(FIRST, clock, changes)
    assert state.linked_since is None
    async with aclosing(state.watch()) as one:
        await anext(one)
        since = state.linked_since
        assert since is not None
        clock.moved = timedelta(hours=1)
        async with aclosing(state.watch()) as other:
            await anext(other)
        assert state.linked_since == since
    assert state.linked_since is None
    assert changes.count == 2


def test_the_state_of_a_site_is_read_as_it_was_written(tmp_path: Path) -> None:
    standing = SiteStanding(
        Phase.REFUSED,
        steps=(JoinStep("Read the token", "failed", "No."),),
        error=JoinError("TOKEN_INVALID", "No.", "Another."),
        certificate_expire_time=TIME,
    )
    StandingFile(tmp_path).write(standing, TIME)
    assert StandingFile(tmp_path).read() == standing
    assert (tmp_path / "state.json").stat().st_mode & 0o077 == 0


def test_a_state_that_is_missing_or_damaged_is_none(tmp_path: Path) -> None:
    assert StandingFile(tmp_path).read() is None
    for text in ("", "{}", "[]", '{"phase": "NO"}'):
        (tmp_path / "state.json").write_text(text)
        assert StandingFile(tmp_path).read() is None


def test_a_running_site_keeps_the_steps_by_which_it_joined(tmp_path: Path) -> None:
    steps = (JoinStep("Read the token", "done"),)
    StandingFile(tmp_path).write(SiteStanding(Phase.JOINED, steps=steps), TIME)
    file = StandingFile(tmp_path)
    file.update(KEPT, TIME, None, TIME)
    written = json.loads((tmp_path / "state.json").read_text())
    assert written["phase"] == "LINKED" and written["linked_since"] == TIME.isoformat()
    assert (written["site"], written["driver"], written["trust_sequence"]) == ("hospital-a", "embedded", 3)
    assert [step["title"] for step in written["steps"]] == ["Read the token"]
    stamp = (tmp_path / "state.json").stat().st_mtime_ns
    file.update(KEPT, TIME, None, TIME + timedelta(1))
    assert (tmp_path / "state.json").stat().st_mtime_ns == stamp
    file.update(KEPT, None, None, TIME)
    assert json.loads((tmp_path / "state.json").read_text())["phase"] == "JOINED"


def test_a_failed_attempt_to_join_anew_does_not_hide_how_the_site_stands(tmp_path: Path) -> None:
    file = StandingFile(tmp_path)
    file.update(KEPT, TIME, None, TIME)
    failed = JoinError("GRANT_REDEEMED", "Used.", "Another.")
    StandingFile(tmp_path).write(SiteStanding(Phase.JOINED, site="hospital-a", error=failed), TIME)
    file.update(KEPT, TIME, None, TIME)
    standing = file.read()
    assert standing is not None and standing.phase is Phase.LINKED and standing.error is None


def test_why_there_is_no_link_is_told_until_there_is_one(tmp_path: Path) -> None:
    file = StandingFile(tmp_path)
    problem = JoinError("NoAnswer", "A firewall may drop it.", "")
    file.update(KEPT, None, problem, TIME)
    assert json.loads((tmp_path / "state.json").read_text())["error"]["message"] == "A firewall may drop it."
    file.update(KEPT, TIME, problem, TIME)
    assert json.loads((tmp_path / "state.json").read_text())["error"] is None
