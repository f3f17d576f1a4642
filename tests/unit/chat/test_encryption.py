"""Texts sealed for their place, content keys wrapped, and where wrapping keys come from."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from redoma_chat.content_keys import FRESH_S, MAX_KEYS, ContentKeys, KeptKey, TenantKeys
from redoma_chat.encryption import OVERHEAD_BYTES, Cell, ContentKey, UnsealFailed, is_sealed, sealed_version
from redoma_chat.errors import ContentUnreadable
from redoma_chat.key_provider import KeyProviderUnusable, LocalKeys, UnwrapFailed, WrappedKey, open_key_provider
from redoma_chat.settings import KeyProviderSettings

LOG = structlog.stdlib.get_logger()
SECRET = bytes(range(32))
CELL = Cell("acme", "tenants/acme/apiKeys/one", "messages", "m1", "content")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
FIELDS = ("tenant", "principal", "table", "row_id", "column")


def cell_with(field: str, value: str) -> Cell:
    return Cell(**{**{name: getattr(CELL, name) for name in FIELDS}, field: value})


def key_file(folder: Path, *keys: bytes) -> Path:
    file = folder / "content.key"
    file.write_text("\n".join(base64.b64encode(key).decode() for key in keys))
    return file


class Provider:
    """Local keys that count how often they are asked."""

    def __init__(self) -> None:
        self.keys = LocalKeys((SECRET,))
        self.key_id = self.keys.key_id
        self.unwrapped = 0

    async def wrap(self, secret: bytes, context: bytes) -> WrappedKey:
        return await self.keys.wrap(secret, context)

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        self.unwrapped += 1
        return await self.keys.unwrap(wrapped, context)


@given(TEXT)
def test_sealed_text_comes_back_and_does_not_show(text: str) -> None:
    key = ContentKey(3, SECRET)
    sealed = key.seal(CELL, text)
    assert key.unseal(CELL, sealed) == text if text else sealed == b""
    if text:
        assert (is_sealed(sealed), sealed_version(sealed)) == (True, 3)
        assert len(sealed) == len(text.encode()) + OVERHEAD_BYTES
        assert len(text) < 4 or text.encode() not in sealed


@given(TEXT)
def test_plain_text_is_never_taken_for_sealed(text: str) -> None:
    assert not is_sealed(text.encode())


@given(TEXT.filter(bool), st.data())
def test_any_changed_bit_is_noticed(text: str, data: st.DataObject) -> None:
    keys = TenantKeys({1: ContentKey(1, SECRET)}, LOG)
    sealed = bytearray(keys.seal(CELL, text))
    bit = data.draw(st.integers(8, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ContentUnreadable):
        keys.unseal(CELL, bytes(sealed))


@given(st.sampled_from(FIELDS), TEXT)
def test_text_of_another_place_is_refused(field: str, other: str) -> None:
    key = ContentKey(1, SECRET)
    if other == getattr(CELL, field):
        return
    with pytest.raises(UnsealFailed):
        key.unseal(cell_with(field, other), key.seal(CELL, "hi"))


def test_two_places_whose_names_join_to_the_same_differ() -> None:
    key = ContentKey(1, SECRET)
    one, other = cell_with("row_id", "m1content"), cell_with("column", "")
    with pytest.raises(UnsealFailed):
        key.unseal(Cell(one.tenant, one.principal, one.table, one.row_id, ""), key.seal(CELL, "hi"))
    with pytest.raises(UnsealFailed):
        key.unseal(other, key.seal(CELL, "hi"))


def test_same_text_sealed_twice_differs() -> None:
    key = ContentKey(1, SECRET)
    assert key.seal(CELL, "hi") != key.seal(CELL, "hi")


@pytest.mark.parametrize("cut", [1, 5, OVERHEAD_BYTES - 1, OVERHEAD_BYTES])
def test_text_cut_short_is_unreadable_and_no_defect(cut: int) -> None:
    keys = TenantKeys({1: ContentKey(1, SECRET)}, LOG)
    with pytest.raises(ContentUnreadable):
        keys.unseal(CELL, keys.seal(CELL, "hello")[:cut])


def test_what_was_never_sealed_is_read_as_it_is() -> None:
    assert TenantKeys({}, LOG).unseal(CELL, "ällo".encode()) == "ällo"


def test_without_a_key_nothing_is_written_in_plain_text() -> None:
    for keys in (TenantKeys({}, LOG), TenantKeys({1: None}, LOG), TenantKeys({1: ContentKey(1, SECRET), 2: None}, LOG)):
        with pytest.raises(ContentUnreadable):
            keys.seal(CELL, "hello")


async def test_content_key_of_another_tenant_or_version_does_not_unwrap() -> None:
    keys = ContentKeys(LocalKeys((SECRET,)), lambda: 0.0, LOG)
    made = await keys.make("acme", 1)
    for tenant, version in (("globex", 1), ("acme", 2)):
        stolen = await keys.unwrapped([KeptKey(tenant, version, made.wrapped)])
        with pytest.raises(ContentUnreadable):
            stolen.seal(CELL, "x")
    assert (await keys.unwrapped([made])).seal(CELL, "x")


async def test_unwrapped_keys_are_kept_a_short_while_and_not_too_many() -> None:
    now = [0.0]
    provider = Provider()
    keys = ContentKeys(provider, lambda: now[0], LOG)
    made = await keys.make("acme", 1)
    for _ in range(3):
        await keys.unwrapped([made])
    assert provider.unwrapped == 1
    now[0] = FRESH_S
    await keys.unwrapped([made])
    assert provider.unwrapped == 2
    for number in range(MAX_KEYS):
        await keys.unwrapped([KeptKey(f"t{number}", 1, made.wrapped)])
    asked = provider.unwrapped
    await keys.unwrapped([made])
    assert provider.unwrapped == asked + 1
    keys.forget("acme")
    await keys.unwrapped([made])
    assert provider.unwrapped == asked + 2


async def test_first_key_wraps_and_every_key_unwraps(tmp_path: Path) -> None:
    old, new = os.urandom(32), os.urandom(32)
    before = LocalKeys((old,))
    wrapped = await before.wrap(b"secret", b"context")
    settings = KeyProviderSettings(kind="file", file=key_file(tmp_path, new, old))
    both = open_key_provider(settings, {})
    assert await both.unwrap(wrapped, b"context") == b"secret"
    again = await both.wrap(b"secret", b"context")
    assert again.key_id == both.key_id != before.key_id
    with pytest.raises(UnwrapFailed):
        await before.unwrap(again, b"context")
    with pytest.raises(UnwrapFailed):
        await both.unwrap(WrappedKey(again.key_id, again.data[:-1]), b"context")
    with pytest.raises(UnwrapFailed):
        await both.unwrap(again, b"other")


async def test_keys_come_from_the_environment() -> None:
    text = base64.b64encode(SECRET).decode()
    settings = KeyProviderSettings(kind="environment", variable="KEYS")
    provider = open_key_provider(settings, {"KEYS": f" {text}\n{text} "})
    assert provider.key_id == LocalKeys((SECRET,)).key_id


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        (b"", "holds no key"),
        (b" \n", "holds no key"),
        (b"c2hvcnRzZWNyZXQ=", "as key 1"),
        (base64.b64encode(SECRET) + b"\nplainsecret", "as key 2"),
        (b"\xff\xfe", "no text"),
    ],
)
def test_unusable_key_file_is_refused_with_what_to_do_and_without_its_content(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "content.key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeyProviderUnusable, match=problem) as refused:
        open_key_provider(KeyProviderSettings(kind="file", file=file), {})
    assert str(file) in str(refused.value)
    for word in (content or b"").split():
        assert word.decode(errors="ignore")[:8] not in str(refused.value).replace(str(file), "") or word == b"\xff\xfe"


@pytest.mark.parametrize("settings", [{}, {"kind": "file"}, {"kind": "environment"}])
def test_no_keys_is_refused_with_how_to_make_one(settings: dict[str, Any]) -> None:
    with pytest.raises(KeyProviderUnusable, match="openssl rand -base64 32"):
        open_key_provider(KeyProviderSettings(**settings), {})
