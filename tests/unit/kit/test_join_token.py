"""The join token, whole, cut and mistyped."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redoma_kit.addresses import split_address
from redoma_kit.join_token import JoinToken, NotAToken, TokenDamaged, parse_token

TOKEN = JoinToken("join.example:8443", b"d" * 32, "c" * 43)


@pytest.mark.parametrize("address", ["join.example:8443", "10.0.0.1:1", "[2001:db8::1]:65535", "localhost:8443"])
def test_a_token_is_read_as_it_was_made(address: str) -> None:
    token = JoinToken(address, bytes(range(32)), "A-_" + "z" * 40)
    assert parse_token(token.text) == token


def test_blanks_and_breaks_of_a_terminal_do_not_matter() -> None:
    text = TOKEN.text
    assert parse_token(f"  {text[:70]}\r\n{text[70:]}\n") == TOKEN


def test_a_token_shows_its_code_to_nobody_who_prints_it() -> None:
    assert TOKEN.code not in repr(TOKEN)


@pytest.mark.parametrize("cut", [1, 5, 6, 7, 50, len(TOKEN.text) - 5])
def test_a_token_that_was_cut_is_told_from_an_unknown_one(cut: int) -> None:
    with pytest.raises(TokenDamaged):
        parse_token(TOKEN.text[:-cut])


@given(place=st.integers(5, len(TOKEN.text) - 1), character=st.characters(categories=["L", "N"]))
@settings(max_examples=200, deadline=None)
def test_one_character_mistyped_is_noticed(place: int, character: str) -> None:
    text = TOKEN.text
    if text[place] == character:
        return
    with pytest.raises(TokenDamaged):
        parse_token(text[:place] + character + text[place + 1 :])


@given(text=st.text(max_size=400))
@settings(max_examples=200, deadline=None)
def test_other_text_is_no_token(text: str) -> None:
    for prefix in ("", "rdmj_"):
        with pytest.raises((NotAToken, TokenDamaged)):
            parse_token(prefix + text)


@pytest.mark.parametrize(
    "token",
    [
        JoinToken("join.example", b"d" * 32, "c" * 43),
        JoinToken("join.example:99999", b"d" * 32, "c" * 43),
        JoinToken("join.example:0", b"d" * 32, "c" * 43),
        JoinToken("a b:1", b"d" * 32, "c" * 43),
        JoinToken("join.example:1", b"d" * 31, "c" * 43),
        JoinToken("join.example:1", b"d" * 32, "c" * 42),
        JoinToken("join.example:1", b"d" * 32, "c" * 42 + "!"),
        JoinToken("x" * 3_000 + ":1", b"d" * 32, "c" * 43),
    ],
)
def test_what_is_signed_off_by_its_checksum_is_still_checked(token: JoinToken) -> None:
    with pytest.raises((NotAToken, TokenDamaged)):
        parse_token(token.text)


@pytest.mark.parametrize("address", ["", ":1", "a", "a:", "a:b", "a:0", "a:65536", "a:²"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)
