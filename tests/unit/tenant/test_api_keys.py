"""How credentials are compared, and which are not looked up."""

import hmac
from datetime import UTC, datetime
from pathlib import Path

import pytest

from redoma_kit.api_key import digest_of, new_key, prefix_of
from redoma_kit.errors import CredentialInvalid
from redoma_tenant.authenticator import Authenticator, StoredCredential, load_bootstrap_digest
from redoma_tenant.errors import CannotStart


class EmptyStore:
    """Knows no key, and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def find_credential(self, prefix: str) -> StoredCredential | None:
        """Finds nothing."""
        self.asked.append(prefix)
        return None


async def test_an_unknown_prefix_costs_the_same_lookup_and_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, really = [], hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    store, key = EmptyStore(), new_key()
    with pytest.raises(CredentialInvalid):
        await Authenticator(store, None, lambda: datetime.now(UTC)).authenticate(key)
    assert store.asked == [prefix_of(key)]
    assert compared == [(digest_of(key), "0" * 64)]


@pytest.mark.parametrize("credential", ["", "x" * 257, "rdm_x7f2k9qa_" + "a" * 400])
async def test_malformed_credentials_are_refused_without_a_lookup(credential: str) -> None:
    store = EmptyStore()
    with pytest.raises(CredentialInvalid):
        await Authenticator(store, None, lambda: datetime.now(UTC)).authenticate(credential)
    assert store.asked == []


def test_the_bootstrap_hash_is_read_in_either_case(tmp_path: Path) -> None:
    file = tmp_path / "hash"
    file.write_text(digest_of("key").upper() + "\n")
    assert load_bootstrap_digest(file) == digest_of("key")


def test_no_bootstrap_hash_is_no_operator(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    assert load_bootstrap_digest(None) is None
    assert load_bootstrap_digest(tmp_path / "missing") is None
    assert load_bootstrap_digest(tmp_path / "empty") is None


@pytest.mark.parametrize("content", ["rdm_x7f2k9qa_" + "a" * 43, "abc", "é" * 64])
def test_a_bootstrap_hash_of_another_form_stops_the_start_and_is_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "hash"
    file.write_text(content)
    with pytest.raises(CannotStart) as raised:
        load_bootstrap_digest(file)
    assert content not in str(raised.value)
