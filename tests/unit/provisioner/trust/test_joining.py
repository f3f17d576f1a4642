"""The program by which a private site joins: what it shows, what it keeps, and what it says when it can't."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from redoma_kit.database import Database
from redoma_kit.join_token import JoinToken, parse_token
from redoma_provisioner.trust import join_failure
from redoma_provisioner.trust.authority import Authority
from redoma_provisioner.trust.joining import TITLES, Joining
from redoma_provisioner.trust.membership_files import MembershipFiles
from tests.fakes.trust_parties import MovedClock, SiteKeys, make_authority
from tests.unit.provisioner.trust.direct_channel import DirectChannel
from tests.unit.provisioner.trust.joinable import ADDRESS, EXPOSED, JoinableSite
from tests.unit.provisioner.trust.killing import Killed, killed_after

pytestmark = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)


@dataclass
class Attempt:
    """A private site that joins, and all that it said."""

    folder: Path
    channel: DirectChannel
    clock: MovedClock
    said: list[Mapping[str, object]] = field(default_factory=list)

    async def join(self, token: str, link_resources: str = "") -> bool:
        """Joins."""
        self.said.clear()
        return await Joining(self.folder, EXPOSED, self.channel, self.clock, self.said.append).join(
            token, link_resources
        )

    @property
    def state(self) -> dict[str, object]:
        """What other programs read."""
        state: dict[str, object] = json.loads((self.folder / "state.json").read_text())
        return state

    @property
    def error(self) -> Mapping[str, str]:
        """Why it could not."""
        error = self.said[-1]["error"]
        assert isinstance(error, dict)
        return error

    @property
    def step_states(self) -> list[object]:
        """How far each step is, by the file."""
        steps = self.state["steps"]
        assert isinstance(steps, list)
        return [step["state"] for step in steps]


@pytest.fixture
def public(database: Database, authority: Authority, clock: MovedClock) -> JoinableSite:
    """A public site that lets others join."""
    return JoinableSite(database, authority, clock)


@pytest.fixture
def attempt(tmp_path: Path, public: JoinableSite, clock: MovedClock) -> Attempt:
    """A private site that has not joined."""
    return Attempt(tmp_path / "membership", DirectChannel(public), clock)


async def _token(public: JoinableSite, rejoin: bool = False) -> str:
    return JoinToken(ADDRESS, public.authority.digest, await public.code(rejoin=rejoin)).text


async def test_a_site_joins_and_shows_each_step(attempt: Attempt, public: JoinableSite) -> None:
    token = await _token(public)
    assert await attempt.join(token)
    state = attempt.state
    assert (state["phase"], state["site"], state["driver"], state["error"]) == (
        "JOINED",
        "hospital-a",
        "embedded",
        None,
    )
    assert (state["link_address"], state["trust_sequence"]) == (ADDRESS, 1)
    assert attempt.step_states == ["done"] * len(TITLES)
    assert [line["step"] for line in attempt.said if line.get("state") == "running"] == [1, 2, 3, 4, 5, 6]
    assert attempt.said[-1] == {"phase": "JOINED", "site": "hospital-a", "error": None}
    kept = MembershipFiles(attempt.folder).read()
    assert kept is not None and kept.identities.keys() == {"gateway", "model", "provisioner", "supervisor"}
    assert not MembershipFiles(attempt.folder).read_pending()


async def test_nothing_that_is_shown_is_secret(attempt: Attempt, public: JoinableSite) -> None:
    token = await _token(public)
    await attempt.join(token)
    await attempt.join(token)
    code = parse_token(token).code
    shown = json.dumps(attempt.said) + json.dumps(attempt.state)
    assert code not in shown and token not in shown and "PRIVATE KEY" not in shown


async def test_keys_never_leave_the_site(attempt: Attempt, public: JoinableSite) -> None:
    await attempt.join(await _token(public))
    (request,) = attempt.channel.asked
    kept = MembershipFiles(attempt.folder).read()
    assert kept is not None
    for identity in kept.identities.values():
        assert identity.key not in [one.csr for one in request.certificate_requests]
        assert b"PRIVATE KEY" not in b"".join(one.csr for one in request.certificate_requests)


@pytest.mark.parametrize(
    ("case", "reason", "step"),
    [
        ("no token", "TOKEN_INVALID", 1),
        ("mistyped", "TOKEN_DAMAGED", 1),
        ("unknown", "GRANT_UNKNOWN", 5),
        ("used", "GRANT_REDEEMED", 5),
        ("expired", "GRANT_EXPIRED", 5),
        ("revoked", "GRANT_REVOKED", 5),
        ("other authority", "AUTHORITY_MISMATCH", 4),
        ("clock behind", "CLOCK_WRONG", 4),
        ("clock ahead", "CLOCK_WRONG", 4),
        ("away", "PUBLIC_SITE_REFUSED", 3),
        ("forged bundle", "ANSWER_UNUSABLE", 6),
        ("other site's certificates", "ANSWER_UNUSABLE", 6),
    ],
)
async def test_each_failure_says_which_and_what_to_do(
    attempt: Attempt, public: JoinableSite, tmp_path: Path, case: str, reason: str, step: int
) -> None:
    token = await _token(public)
    match case:
        case "no token":
            token = "hello"
        case "mistyped":
            token = token[:-9] + token[-8:]
        case "unknown":
            token = JoinToken(ADDRESS, public.authority.digest, "u" * 43).text
        case "used":
            await public.redeem(parse_token(token).code, SiteKeys())
        case "expired":
            public.clock.moved = timedelta(minutes=16)
        case "revoked":
            await _token(public)
        case "other authority":
            attempt.channel.authority = make_authority(tmp_path / "other", public.clock)
        case "clock behind":
            attempt.channel.moved_date = timedelta(hours=2, minutes=5)
        case "clock ahead":
            attempt.channel.moved_date = timedelta(days=-3)
        case "away":
            attempt.channel.failure = join_failure.nobody_listens(ADDRESS)
        case "forged bundle":
            attempt.channel.spoil = lambda admission: replace(admission, trust_bundle="a.b.c")
        case "other site's certificates":
            attempt.channel.spoil = lambda admission: replace(admission, certificates=admission.certificates[::-1][:3])
    assert not await attempt.join(token)
    assert attempt.error["reason"] == reason
    assert attempt.error["message"].endswith((".", "`")) and len(attempt.error["mend"]) > 20
    failed = [line["step"] for line in attempt.said if line.get("state") == "failed"]
    assert failed == [step]
    assert MembershipFiles(attempt.folder).read() is None
    if step > 1:
        assert attempt.state["phase"] == "REFUSED"
        assert attempt.step_states == ["done"] * (step - 1) + ["failed"] + ["pending"] * (len(TITLES) - step)
    if case.startswith("clock"):
        assert ("2 h 5 min behind" if case.endswith("behind") else "ahead") in attempt.error["message"]
        # The token was not used up.
        attempt.channel.moved_date = timedelta()
        assert await attempt.join(token)


async def test_a_clock_that_is_off_a_little_is_told_and_does_not_hinder(attempt: Attempt, public: JoinableSite) -> None:
    attempt.channel.moved_date = timedelta(seconds=50)
    assert await attempt.join(await _token(public))
    assert any("behind" in str(line.get("detail")) for line in attempt.said)


async def test_killed_anywhere_a_second_run_with_the_same_token_joins(
    attempt: Attempt, public: JoinableSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    while True:
        token = await _token(public, rejoin=True)
        with killed_after(monkeypatch, steps):
            try:
                assert await attempt.join(token)
                break
            except Killed:
                pass
        assert await attempt.join(token), (steps, attempt.error)
        assert attempt.state["phase"] == "JOINED"
        steps += 19
    assert steps > 100


async def test_done_again_when_all_was_kept_it_has_joined(
    attempt: Attempt, public: JoinableSite, clock: MovedClock
) -> None:
    token = await _token(public)
    assert await attempt.join(token)
    former = MembershipFiles(attempt.folder).read()
    clock.moved = timedelta(minutes=2)
    assert await attempt.join(token)
    assert attempt.state["phase"] == "JOINED"
    assert MembershipFiles(attempt.folder).read() == former
    other = Attempt(attempt.folder.with_name("other"), attempt.channel, clock)
    assert not await other.join(token)
    assert other.error["reason"] == "GRANT_REDEEMED"


async def test_a_joined_site_stays_joined_when_it_can_not_join_anew(attempt: Attempt, public: JoinableSite) -> None:
    assert await attempt.join(await _token(public))
    former = MembershipFiles(attempt.folder).read()
    assert not await attempt.join(JoinToken(ADDRESS, public.authority.digest, "u" * 43).text)
    state = attempt.state
    assert state["phase"] == "JOINED" and state["error"]
    assert MembershipFiles(attempt.folder).read() == former


async def test_joining_anew_takes_new_keys(attempt: Attempt, public: JoinableSite) -> None:
    files = MembershipFiles(attempt.folder)
    assert await attempt.join(await _token(public))
    former = files.read()
    assert await attempt.join(await _token(public, rejoin=True))
    kept = files.read()
    assert former is not None and kept is not None
    assert {one.key for one in former.identities.values()}.isdisjoint({one.key for one in kept.identities.values()})


async def test_a_directory_that_can_not_be_made_is_named(attempt: Attempt, public: JoinableSite) -> None:
    attempt.folder.write_text("a file is in the way")
    assert not await attempt.join(await _token(public))
    assert attempt.error["reason"] == "DISK_FAILED" and str(attempt.folder) in attempt.error["message"]


async def test_two_at_a_time_do_not_join(attempt: Attempt, public: JoinableSite) -> None:
    files = MembershipFiles(attempt.folder)
    files.prepare()
    with files.locked():
        assert not await attempt.join(await _token(public))
    assert attempt.error["reason"] == "MEMBERSHIP_BUSY"


async def test_documents_of_skupper_are_kept_those_that_are_given_first(attempt: Attempt, public: JoinableSite) -> None:
    attempt.channel.spoil = lambda admission: replace(admission, skupper_resources="kind: AccessToken")
    assert await attempt.join(await _token(public))
    files = MembershipFiles(attempt.folder)
    assert files.read_link() == "kind: AccessToken"
    assert await attempt.join(await _token(public, rejoin=True), "kind: Link")
    assert files.read_link() == "kind: Link"
    assert "AccessToken" not in json.dumps(attempt.said)
