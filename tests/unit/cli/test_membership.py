"""What is read of a private site's membership: what makes it unusable is told, never guessed over."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from redoma_cli.errors import CliError
from redoma_cli.join_token import token_address
from redoma_cli.local.home import Home
from redoma_cli.local.membership import (
    Failure,
    MembershipDamaged,
    MembershipState,
    Step,
    read_membership,
    read_state,
    trouble_of,
)
from redoma_cli.local.pki import LEAF_LIFETIME, DevelopmentAuthority
from redoma_kit.join_token import JoinToken
from tests.unit.cli.joined import write_membership, write_state


def test_state_is_read_whole_and_a_damaged_one_counts_as_none(home: Home) -> None:
    assert read_state(home.private.membership) == MembershipState()
    error = {"reason": "GRANT_EXPIRED", "message": "It has expired.", "mend": "Ask for another."}
    write_state(home, "REFUSED", "hospital-a", error=error)
    state = read_state(home.private.membership)
    assert (state.phase, state.site, state.linked) == ("REFUSED", "hospital-a", False)
    assert state.error == Failure("GRANT_EXPIRED", "It has expired.", "Ask for another.")
    assert state.steps == (Step("Read the token", "done"),)
    for content in ("", "[]", "{}", '{"phase": "LINKED", "steps": [1]}'):
        (home.private.membership / "state.json").write_text(content)
        assert read_state(home.private.membership) == MembershipState()


def test_membership_names_its_site_and_when_it_ends(home: Home, authority: DevelopmentAuthority) -> None:
    assert read_membership(home.private.membership) is None
    directory = write_membership(home, "hospital-a")
    membership = read_membership(directory)
    assert membership is not None
    assert membership.site == "hospital-a"
    now = datetime.now(UTC)
    assert trouble_of(directory, membership, authority.certificate, now) == ""
    assert "expired" in trouble_of(directory, membership, authority.certificate, now + LEAF_LIFETIME)


def test_membership_of_another_authority_can_not_be_used(home: Home, authority: DevelopmentAuthority) -> None:
    directory = write_membership(home, stranger=True)
    membership = read_membership(directory)
    assert membership is not None
    assert "another authority" in trouble_of(directory, membership, authority.certificate, datetime.now(UTC))
    assert trouble_of(directory, membership, None, datetime.now(UTC)) == ""


@pytest.mark.parametrize("name", ["gateway/tls.crt", "model/tls.key", "supervisor/ca.crt", "jwks.json"])
def test_missing_part_of_a_membership_is_told(home: Home, authority: DevelopmentAuthority, name: str) -> None:
    directory = write_membership(home)
    (directory / "current" / name).unlink()
    with pytest.raises(MembershipDamaged, match=name):
        read_membership(directory)


def test_damaged_certificate_and_key_of_another_are_told(home: Home, authority: DevelopmentAuthority) -> None:
    directory = write_membership(home)
    (directory / "current" / "model" / "tls.crt").write_text("no certificate")
    with pytest.raises(MembershipDamaged, match="damaged"):
        read_membership(directory)
    directory = write_membership(home)
    key = (directory / "current" / "gateway" / "tls.key").read_bytes()
    (directory / "current" / "model" / "tls.key").write_bytes(key)
    with pytest.raises(MembershipDamaged, match="not the key of"):
        read_membership(directory)


def test_token_tells_where_it_leads_and_a_mistyped_one_is_known() -> None:
    token = JoinToken("redoma.example.com:8443", b"d" * 32, "c" * 43).text
    assert token_address(token) == "redoma.example.com:8443"
    assert token_address(f" {token[:40]}\n{token[40:]} ") == "redoma.example.com:8443"
    for wrong in (token[:-1], token[:30] + "A" + token[31:], token.replace("rdmj_", "rdmj_x", 1)):
        with pytest.raises(CliError, match="incomplete or mistyped"):
            token_address(wrong)
    for other in ("", "rdm_abcdefgh_x", json.dumps({"a": "x"})):
        with pytest.raises(CliError, match="not a join token"):
            token_address(other)


def test_certificates_made_long_ago_are_read_with_their_own_end(home: Home, authority: DevelopmentAuthority) -> None:
    directory = write_membership(home, age=LEAF_LIFETIME - timedelta(days=2))
    membership = read_membership(directory)
    assert membership is not None
    assert timedelta(days=1) < membership.expire_time - datetime.now(UTC) < timedelta(days=3)
